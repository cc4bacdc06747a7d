// Servers, their router, and the load on them.
#include "options/option_sections.h"

namespace plimsoll {
namespace {

constexpr std::string_view kServer = "Server";
constexpr std::string_view kApart = "Prefill and decode apart";
constexpr std::string_view kLoad = "Load";

}  // namespace

std::vector<Option> server_options() {
  return {
      {.name = "host",
       .section = kServer,
       .value_name = "IP",
       .commands = kServe | kRouter,
       .field = [](Settings& s) -> Field { return &s.serve.host; },
       .help = "Address to listen on; 0.0.0.0 takes requests from other machines."},
      {.name = "port",
       .section = kServer,
       .value_name = "N",
       .commands = kServe | kRouter,
       .field = [](Settings& s) -> Field { return &s.serve.port; },
       .max = 65535,
       .help = "Port to listen on; 0 takes any free one and says which."},
      {.name = "api-key",
       .section = kServer,
       .value_name = "KEY",
       .commands = kServe | kBenchServing,
       .field = [](Settings& s) -> Field { return &s.serve.api_key; },
       .help = "What clients send as Authorization: Bearer KEY; empty: nothing is asked for.",
       .is_secret = true},
      {.name = "admin-api-key",
       .section = kServer,
       .value_name = "KEY",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.admin_api_key; },
       .help = "Ask for this key instead where a request records or flushes.",
       .is_secret = true},
      {.name = "served-model-name",
       .section = kServer,
       .value_name = "NAME",
       .commands = kServe | kBenchServing,
       .field = [](Settings& s) -> Field { return &s.serve.served_model_name; },
       .help =
           "The model's name in the API; unless given, serve takes the model folder's name, and "
           "bench-serving the first that the server lists."},
      {.name = "max-queued-requests",
       .section = kServer,
       .value_name = "N",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.max_queued_requests; },
       .max = kUnbounded,
       .help = "Requests that may wait for a rank; more are answered 429."},
      {.name = "max-body-memory-mib",
       .section = kServer,
       .value_name = "N",
       .commands = kServe | kRouter,
       .field = [](Settings& s) -> Field { return &s.serve.max_body_memory_mib; },
       .min = 4,
       .max = 1 << 20,
       .help = "MiB that the bodies of all requests may take until they are understood; more are "
               "answered 503."},
      {.name = "expert-metrics-per-layer",
       .section = kServer,
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.expert_metrics_per_layer; },
       .help = "Export the load of every layer and rank too (layers x ranks series)."},
  };
}

std::vector<Option> apart_options() {
  return {
      {.name = "disaggregation-mode",
       .section = kApart,
       .value_name = "M",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.engine.disaggregation_mode; },
       .choices = {"null", "prefill", "decode"},
       .help = "Only compute prompts, in normal mode; or only continue them, in low-latency mode. "
               "`plimsoll router` is what clients then ask."},
      {.name = "disaggregation-transfer-backend",
       .section = kApart,
       .value_name = "T",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.transfer_backend; },
       .choices = {"ucx", "ucx_shm"},
       .help = "How states travel, the same for all servers: over RDMA or TCP, as UCX finds; or "
               "through shared memory, within one host."},
      {.name = "disaggregation-bootstrap-port",
       .section = kApart,
       .value_name = "N",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.bootstrap_port; },
       .max = 65535,
       .help = "Where a prefill server waits for decode servers; 0 takes any free port, which "
               "/health tells the router."},
      {.name = "disaggregation-waiting-timeout",
       .section = kApart,
       .value_name = "S",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.waiting_timeout_s; },
       .min = 1,
       .max = kUnbounded,
       .help =
           "Seconds after which a decode server gives a prompt up that a prefill server computes."},
      {.name = "disaggregation-key-file",
       .section = kApart,
       .value_name = "FILE",
       .commands = kServe | kRouter,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.key_file; },
       .help =
           "A secret that all servers and the router share (`openssl rand -hex 32`). Servers "
           "prove to each other that they have it; without one they talk within one host only."},
      {.name = "disaggregation-allow-strangers",
       .section = kApart,
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.takes_strangers; },
       .help = "Without a key, talk to other hosts too: whoever reaches the bootstrap port then "
               "gets prompts computed and can end the server."},
      {.name = "prefill-servers",
       .section = kApart,
       .value_name = "HOST:PORT",
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.serve.disaggregation.prefill_servers; },
       .help = "Bootstrap addresses that any client may name to a decode server; others only a "
               "router that has the key.",
       .takes_many = true},
      {.name = "prefill",
       .section = kApart,
       .value_name = "URL",
       .commands = kRouter,
       .required_by = kRouter,
       .field = [](Settings& s) -> Field { return &s.router.prefill; },
       .help = "A prefill server, such as http://127.0.0.1:30001; one or several.",
       .takes_many = true},
      {.name = "decode",
       .section = kApart,
       .value_name = "URL",
       .commands = kRouter,
       .required_by = kRouter,
       .field = [](Settings& s) -> Field { return &s.router.decode; },
       .help = "A decode server; one or several.",
       .takes_many = true},
  };
}

std::vector<Option> load_options() {
  return {
      {.name = "base-url",
       .section = kLoad,
       .value_name = "URL",
       .commands = kBenchServing,
       .required_by = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.base_url; },
       .help = "The OpenAI server to load, such as http://127.0.0.1:30000."},
      {.name = "endpoint",
       .section = kLoad,
       .value_name = "PATH",
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.endpoint; },
       .choices = {"/v1/completions", "/v1/chat/completions"},
       .help = "Where requests go; a chat is one message of the user, the prompt."},
      {.name = "request-rate",
       .section = kLoad,
       .value_name = "R",
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.request_rate; },
       .min = 1e-3,
       .max = kUnbounded,
       .help =
           "Requests that arrive in a second, at random (a Poisson process); inf: all at once."},
      {.name = "max-concurrency",
       .section = kLoad,
       .value_name = "N",
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.max_concurrency; },
       .max = kUnbounded,
       .help =
           "Requests on their way at the same time; those that arrive later wait, unmeasured. 0: "
           "no limit."},
      {.name = "ignore-eos",
       .section = kLoad,
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.ignore_eos; },
       .help = "Ask for all of --max-tokens, as vLLM, SGLang and Plimsoll understand; others may "
               "refuse."},
      {.name = "goodput",
       .section = kLoad,
       .value_name = "METRIC:MS",
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.goodput; },
       .help = "Count the requests that keep to these limits: ttft:500 tpot:50 e2el:5000, in "
               "milliseconds, one or several.",
       .takes_many = true},
      {.name = "result-file",
       .section = kLoad,
       .value_name = "F",
       .commands = kBenchServing,
       .field = [](Settings& s) -> Field { return &s.load.result_file; },
       .help = "Write the result to this file too, as JSON."},
  };
}

}  // namespace plimsoll
