// The command in several processes, started by mpirun: the same bytes as in one, and what is said
// when a process dies or hangs.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "command_test_support.h"
#include "serve/http/http_test_client.h"

namespace plimsoll {
namespace {

// Sanitizers see MPI's own memory and threads only in part.
const std::string kMpirun =
    "env ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=ignore_noninstrumented_modules=1"
    " OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    " mpirun --oversubscribe --bind-to none -n ";

Outcome plimsoll_in(int num_processes, const std::string& arguments) {
  return run_shell(kMpirun + std::to_string(num_processes) + " " + PLIMSOLL_COMMAND + " " +
                   arguments);
}

class Processes : public testing::Test {
 protected:
  void SetUp() override {
    if (run_shell("command -v mpirun").status != 0) {
      GTEST_SKIP() << "there is no mpirun here (openmpi-bin)";
    }
    const Outcome tried = plimsoll_in(2, "generate --model /nowhere --prompt x");
    if (tried.err.find("built without MPI") != std::string::npos) {
      GTEST_SKIP() << "plimsoll was built without MPI (libopenmpi-dev)";
    }
    ASSERT_TRUE(contains(tried.err, "/nowhere"));
  }
};

TEST_F(Processes, GiveTheBytesOfOne) {
  const json alone = result_of("eval" + kDemoGolden);
  const std::vector<std::pair<int, std::string>> cases = {
      {4, ""},
      {3, " --ep-size 6 --ep-num-redundant-experts 8 --enable-waterfill"},
      {2, " --ep-size 8 --deepep-mode low_latency --enable-waterfill"},
      {2, " --moe-a2a-backend none"},
      {2, " --ep-size 4 --enable-eplb --eplb-rebalance-num-iterations 1"}};
  for (const auto& [num_processes, flags] : cases) {
    const json spread = json_of(plimsoll_in(num_processes, "eval --json" + kDemoGolden + flags));
    EXPECT_EQ(spread["logits_sha256"], alone["logits_sha256"]) << flags;
    EXPECT_EQ(spread["passed"], true);
  }
}

TEST_F(Processes, RecordWhatOneProcessRecords) {
  const auto counts = [](const Outcome& generated) {
    EXPECT_EQ(generated.status, 0) << generated.err;
    std::string recording;
    for (const auto& entry : fs::directory_iterator(scratch())) {
      if (entry.path().extension() == ".pt") recording = entry.path();
    }
    const json layers = result_of("inspect " + recording)["layers"];
    fs::remove(recording);
    return layers;
  };
  const std::string arguments =
      "generate" + kDemo + " --prompt 'In the beginning' --prompt 'func main() {' --max-tokens 20" +
      " --expert-distribution-recorder-mode stat --expert-distribution-recorder-dir " +
      scratch().string() + " --ep-size 4";
  EXPECT_EQ(counts(plimsoll_in(4, arguments)), counts(plimsoll(arguments)));
}

TEST_F(Processes, MeasureAllRanks) {
  const json result = json_of(plimsoll_in(
      2, "bench --json" + kDemo + " --dataset " + kRoot +
             "/demo/prompts/code.txt --num-prompts 8 --max-tokens 4 --enable-waterfill"));
  EXPECT_EQ(result["ep_size"], 2);
  EXPECT_GT(result["decode"]["tokens_per_s"], 0);
  EXPECT_GE(result["balance"]["max_over_mean"]["mean"], 1);
}

TEST_F(Processes, RefuseWhatTheyCannotShare) {
  const std::string generate = "generate" + kDemo + " --prompt x";
  const std::string spare = " --ep-num-redundant-experts 2";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"inspect " + kRoot + "/demo/model", "start it without mpirun"},
      {generate + " --ep-size 3", "make --ep-size a multiple of 2"},
      {generate + spare + " : -n 1 " + PLIMSOLL_COMMAND + " " + generate + spare +
           " --enable-waterfill",
       "process 2 (on host"}};
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = plimsoll_in(2, arguments);
    EXPECT_NE(outcome.status, 0) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_TRUE(contains(outcome.err, message));
  }
}

// A server of several processes that a test can send signals to. Each writes what it has to say to
// a file of its own: mpirun may end before it has passed on everything.
class ServingJob {
 public:
  // mpirun leaves the others alone when one dies: "--enable-recovery", or else "".
  ServingJob(int num_processes, const std::string& flags, const std::string& mpirun_flags = "") {
    const std::string start = "'echo $$ >" + path("pid.", "$OMPI_COMM_WORLD_RANK") +
                              "; exec \"$0\" \"$@\" 2>" + path("log.", "$OMPI_COMM_WORLD_RANK") +
                              "' ";
    const std::string command = "exec " + kMpirun + std::to_string(num_processes) + " " +
                                mpirun_flags + " sh -c " + start + PLIMSOLL_COMMAND +
                                " serve --port 0" + kDemo + flags + " </dev/null >/dev/null 2>&1";
    mpirun_ = fork();
    if (mpirun_ == 0) {
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
  }
  ~ServingJob() {
    if (mpirun_ > 0) kill(mpirun_, SIGTERM), waitpid(mpirun_, nullptr, 0);
  }

  std::string log_of(int process) const { return read_file(path("log.", std::to_string(process))); }
  // Of the HTTP server, once it serves; 0 where it does not.
  int port() {
    while (mpirun_ > 0 && waitpid(mpirun_, nullptr, WNOHANG) == 0) {
      const std::string text = log_of(0);
      const size_t at = text.find("listening on http://127.0.0.1:");
      if (at != text.npos && text.find("\nready\n") != text.npos) {
        return std::atoi(text.c_str() + at + 30);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    mpirun_ = -1;
    ADD_FAILURE() << "it does not serve: " << log_of(0);
    return 0;
  }
  void signal_process(int process, int signal) const {
    const int pid = std::atoi(read_file(path("pid.", std::to_string(process))).c_str());
    ASSERT_GT(pid, 1);
    ASSERT_EQ(kill(pid, signal), 0);
  }
  // Waits for mpirun's end.
  int status() {
    int status = 0;
    waitpid(mpirun_, &status, 0);
    mpirun_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  std::string path(const std::string& kind, const std::string& process) const {
    return (dir_ / (kind + process)).string();
  }

  const fs::path dir_ = scratch();
  pid_t mpirun_ = -1;
};

// The text of a stream of events.
std::string text_of(const std::string& events) {
  std::string text;
  for (size_t at = 0; (at = events.find("data: {", at)) != std::string::npos;) {
    const size_t end = events.find('\n', at);
    const json event = json::parse(events.substr(at + 6, end - at - 6), nullptr, false);
    if (event.contains("choices")) text += event["choices"][0]["text"];
    at = end;
  }
  return text;
}

// A completion's stream of events, once it has begun.
struct Stream {
  TestClient client;
  std::string bytes;

  Stream(int port, const std::string& prompt, int max_tokens) : client(port) {
    const json body = {{"prompt", prompt},
                       {"max_tokens", max_tokens},
                       {"ignore_eos", true},
                       {"temperature", 0},
                       {"stream", true}};
    const std::string text = body.dump();
    client.send(
        "POST /v1/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: " +
        std::to_string(text.size()) + "\r\n\r\n" + text);
    while (bytes.find("data: ") == std::string::npos) {
      const std::string more = client.receive();
      if (more.empty()) break;
      bytes += more;
    }
  }
};

// Who waits gets an error that names the process that died, and so does the operator. What the
// others say is not asked for here: mpirun kills them a second after the first has ended.
void expect_stop_when(int signal) {
  ServingJob job(3, " --ep-num-redundant-experts 2 --rank-timeout-seconds 4");
  const int port = job.port();
  ASSERT_GT(port, 0);
  Stream stream(port, "In the", 4000);
  job.signal_process(2, signal);
  stream.bytes += stream.client.receive_all();
  EXPECT_TRUE(contains(stream.bytes, "\"error\""));
  EXPECT_TRUE(contains(stream.bytes, "process 2 (on host"));
  EXPECT_NE(job.status(), 0);
  const std::string what = signal == SIGSTOP ? " has not been heard of" : " has died";
  EXPECT_TRUE(contains(job.log_of(0), "plimsoll: the engine has failed: "));
  EXPECT_TRUE(contains(job.log_of(0), "process 2 (on host"));  // seen, or heard from process 1
  EXPECT_TRUE(contains(job.log_of(0), what));
}

TEST_F(Processes, SayWhichOneHasDiedAndStop) {
  expect_stop_when(SIGKILL);
}

TEST_F(Processes, SayWhichOneHangsAndStop) {
  expect_stop_when(SIGSTOP);
}

// All the others do, if mpirun lets them.
void expect_all_say_who_died(int dying) {
  ServingJob job(4, " --ep-num-redundant-experts 4", "--enable-recovery");
  const int port = job.port();
  ASSERT_GT(port, 0);
  Stream stream(port, "In the", 4000);
  job.signal_process(dying, SIGKILL);
  job.status();
  for (int p = 0; p < 4; ++p) {
    if (p == dying) continue;
    EXPECT_TRUE(contains(job.log_of(p), "process " + std::to_string(dying) + " (on host"));
    EXPECT_TRUE(contains(job.log_of(p), " has died"));
  }
}

TEST_F(Processes, AllSayWhichOneHasDied) {
  expect_all_say_who_died(2);
}

TEST_F(Processes, AllSayThatTheFirstHasDied) {
  expect_all_say_who_died(0);
}

class ElasticProcesses : public Processes {
 protected:
  // What a stream says that begins now, while a signal is sent to a process.
  static std::string text_while(const ServingJob& job, int port, int process, int signal) {
    Stream stream(port, "In the", kTokens);
    job.signal_process(process, signal);
    stream.bytes += stream.client.receive_all();
    EXPECT_FALSE(stream.bytes.find("\"error\"") != std::string::npos) << stream.bytes;
    return text_of(stream.bytes);
  }
  static std::string text_now(int port) {
    Stream stream(port, "In the", kTokens);
    return text_of(stream.bytes + stream.client.receive_all());
  }
  static std::string metrics_of(int port) {
    TestClient client(port);
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    return client.receive_all();
  }

  static constexpr int kTokens = 200;
};

TEST_F(ElasticProcesses, ServeOnWhenOneAfterTheOtherDiesOrHangs) {
  ServingJob job(4,
                 " --elastic --ep-num-redundant-experts 8 --enable-waterfill"
                 " --rank-timeout-seconds 2",
                 "--enable-recovery");
  const int port = job.port();
  ASSERT_GT(port, 0);
  const std::string text = text_now(port);
  EXPECT_GT(text.size(), 100u);
  EXPECT_EQ(text_while(job, port, 2, SIGKILL), text);
  EXPECT_EQ(text_while(job, port, 1, SIGSTOP), text);
  EXPECT_EQ(text_while(job, port, 3, SIGKILL), text);
  EXPECT_EQ(text_now(port), text);
  const std::string metrics = metrics_of(port);
  EXPECT_TRUE(contains(metrics, "plimsoll_living_ranks{model_name=\"model\"} 1"));
  EXPECT_TRUE(contains(metrics, "plimsoll_elastic_restarts_total{model_name=\"model\"} 3"));
  for (const char* news : {"process 2 (on host", "3 ranks go on", "process 1 (on host",
                           "has not been heard of", "2 ranks go on", "1 ranks go on"}) {
    EXPECT_TRUE(contains(job.log_of(0), news));
  }
  job.signal_process(0, SIGTERM);
  EXPECT_EQ(job.status(), 0);  // the one that hung is gone as well
}

}  // namespace
}  // namespace plimsoll
