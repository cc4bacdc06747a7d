#include "serve/recorder_dump.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "plimsoll/recording.h"
#include "record/formats/file_io.h"
#include "record/formats/zip.h"
#include "serve/http/json_reply.h"
#include "serve/openai/completion_job.h"

namespace plimsoll {
namespace {

void send_file(HttpReply& reply,
               const std::string& type,
               const std::string& name,
               std::span<const std::byte> bytes) {
  reply.send(200, type, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
             {{"Content-Disposition", "attachment; filename=\"" + name + "\""}});
}

}  // namespace

void send_dump_summary(HttpReply& reply, const std::vector<std::string>& paths) {
  const Result<Recording> written = read_recording(paths.front());
  if (!written.ok()) return send_error(reply, 500, written.error().message);
  using Json = nlohmann::ordered_json;
  Json answer = {{"path", paths.front()},
                 {"paths", paths},
                 {"num_passes", written->passes.size()},
                 {"num_tokens", written->info ? written->info->num_tokens : 0}};
  answer["balancedness"] =
      written->average_utilization_rate ? Json(*written->average_utilization_rate) : Json();
  send_json(reply, answer);
}

void send_dump_files(HttpReply& reply, const std::vector<std::string>& paths) {
  std::vector<ZipEntry> entries;
  for (const std::string& path : paths) {
    auto bytes = read_file(path);
    if (!bytes.ok()) return send_error(reply, 500, bytes.error().message);
    entries.push_back({std::filesystem::path(path).filename().string(), std::move(*bytes)});
  }
  const std::string& first = entries.front().name;
  if (entries.size() == 1) {
    return send_file(reply, "application/octet-stream", first, entries.front().bytes);
  }
  const auto archive = make_zip(entries);
  if (!archive.ok()) return send_error(reply, 500, archive.error().message);
  // "..._<time>_<rank>.pt" without the rank
  send_file(reply, "application/zip", first.substr(0, first.rfind('_')) + ".zip", *archive);
}

}  // namespace plimsoll
