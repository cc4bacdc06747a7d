// Control messages between processes, and what is said of those that end, die or hang.
#include "comm/process_mesh.h"

#include <gtest/gtest.h>

#include "comm/byte_stream.h"
#include "comm/job_test_support.h"

namespace plimsoll {
namespace {

using testing::Job;
using testing::on_all_processes;

TEST(ProcessMesh, SharesWhatEveryProcessSays) {
  on_all_processes(Job{{"a", "b", "a"}}, [](ProcessMesh& mesh) {
    for (int round = 0; round < 20; ++round) {
      const auto all = mesh.share(to_bytes(100 * round + mesh.process()));
      ASSERT_TRUE(all.ok()) << all.error().message;
      for (int p = 0; p < 3; ++p) {
        int said = 0;
        ASSERT_TRUE(from_bytes((*all)[p], said));
        EXPECT_EQ(said, 100 * round + p);
      }
    }
  });
}

TEST(ProcessMesh, AnErrorOfOneProcessIsEverybodys) {
  on_all_processes(Job{{"a", "a", "a"}}, [](ProcessMesh& mesh) {
    const auto all = mesh.process() == 1 ? mesh.share(corrupt_file("no such weights"))
                                         : mesh.share(std::vector<std::byte>{});
    ASSERT_FALSE(all.ok());
    EXPECT_EQ(all.error().code, ErrorCode::kCorruptFile);
    EXPECT_NE(all.error().message.find("no such weights"), std::string::npos);
    if (mesh.process() != 1) {
      EXPECT_NE(all.error().message.find("process 1"), std::string::npos) << all.error().message;
    }
  });
}

TEST(ProcessMesh, KeepsTheMessagesOfAProcessThatHasEndedAndSaysWhy) {
  on_all_processes(Job{{"a", "b"}}, [](ProcessMesh& mesh) {
    if (mesh.process() == 1) {
      const std::vector<std::byte> large(1 << 22, std::byte{7});
      EXPECT_TRUE(mesh.send(0, large).ok());
      return mesh.set_goodbye("it was time");
    }
    const auto message = mesh.receive(1);
    ASSERT_TRUE(message.ok()) << message.error().message;
    EXPECT_EQ(message->size(), 1u << 22);
    EXPECT_EQ(message->back(), std::byte{7});
    const auto nothing = mesh.receive(1);
    ASSERT_FALSE(nothing.ok());
    EXPECT_NE(nothing.error().message.find("it was time"), std::string::npos);
    EXPECT_FALSE(mesh.alive(1));
    EXPECT_FALSE(mesh.send(1, {}).ok());
  });
}

}  // namespace
}  // namespace plimsoll
