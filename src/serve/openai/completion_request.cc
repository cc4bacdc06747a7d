#include "serve/openai/completion_request.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/tokenizer/chat.h"
#include "record/formats/limits.h"

namespace plimsoll {
namespace {

using nlohmann::json;

using limits::kChoicesPerPrompt;
using limits::kPromptsPerRequest;
constexpr size_t kMinLikeness = 4;  // characters; "n" stands in every name

// Reads fields of the body and keeps the first complaint. null counts as absent, as in OpenAI's
// API.
class FieldReader {
 public:
  explicit FieldReader(const json& body) : body_(body) {}

  const std::string& complaint() const { return complaint_; }
  void complain(const std::string& text) {
    if (complaint_.empty()) complaint_ = text;
  }
  void complain(const char* name, const std::string& expected) {
    complain(std::string(name) + " is " + body_[name].dump().substr(0, 80) + ", expected " +
             expected);
  }

  const json* find(const char* name) const {
    const auto found = body_.find(name);
    return found == body_.end() || found->is_null() ? nullptr : &*found;
  }

  template <typename Integer>
  bool integer(const char* name, Integer& value, int64_t min, int64_t max) {
    const json* found = find(name);
    if (found == nullptr) return false;
    const bool wraps = found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX;
    const bool fits = found->is_number_integer() && !wraps && found->get<int64_t>() >= min &&
                      found->get<int64_t>() <= max;
    if (fits) {
      value = static_cast<Integer>(found->get<int64_t>());
    } else {
      complain(name, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    }
    return fits;
  }

  void number(const char* name, float& value, double min, double max) {
    const json* found = find(name);
    if (found == nullptr) return;
    if (!found->is_number() || !(found->get<double>() >= min && found->get<double>() <= max)) {
      return complain(name, "a number from " + json(min).dump() + " to " + json(max).dump());
    }
    value = found->get<float>();
  }

  bool boolean(const char* name, bool& value) {
    const json* found = find(name);
    if (found == nullptr) return false;
    if (!found->is_boolean()) return complain(name, "true or false"), false;
    value = found->get<bool>();
    return true;
  }

 private:
  const json& body_;
  std::string complaint_;
};

// Fields of OpenAI's API that change nothing here, and those that this server adds to it.
constexpr std::array kCommonFields = {"model",
                                      "max_tokens",
                                      "temperature",
                                      "top_p",
                                      "top_k",
                                      "min_p",
                                      "n",
                                      "seed",
                                      "stop",
                                      "stream",
                                      "stream_options",
                                      "logprobs",
                                      "presence_penalty",
                                      "frequency_penalty",
                                      "ignore_eos",
                                      "user",
                                      "metadata",
                                      "store",
                                      "service_tier"};
constexpr std::array kCompletionFields = {"prompt", "echo", "best_of"};
constexpr std::array kChatFields = {"messages", "max_completion_tokens", "top_logprobs",
                                    "chat_template_kwargs"};

// Fields of OpenAI's API that many clients send with the value that asks for nothing.
constexpr std::array<std::pair<const char*, const char*>, 4> kNeutralFields = {
    {{"tools", "[]"},
     {"tool_choice", R"("none")"},
     {"logit_bias", "{}"},
     {"response_format", R"({"type":"text"})"}}};

// Complains of the first field of `object`, which is the body or stands `at` a place in it, that is
// not among the known ones.
void check_names(const json& object,
                 const std::vector<std::string>& known,
                 const std::string& at,
                 FieldReader& read) {
  for (const auto& [name, value] : object.items()) {
    if (std::ranges::find(known, name) != known.end() || value.is_null()) continue;
    std::string message = "this server does not know the field " + json(name).dump().substr(0, 80) +
                          (at.empty() ? "" : " of " + at);
    const auto like = std::ranges::find_if(known, [&](const std::string& candidate) {
      return std::min(name.size(), candidate.size()) >= kMinLikeness &&
             (candidate.find(name) != std::string::npos ||
              name.find(candidate) != std::string::npos);
    });
    if (like != known.end()) message += "; did you mean \"" + *like + "\"?";
    return read.complain(message);
  }
}

void check_names(const json& body, bool chat, FieldReader& read) {
  std::vector<std::string> known(kCommonFields.begin(), kCommonFields.end());
  if (chat) {
    known.insert(known.end(), kChatFields.begin(), kChatFields.end());
  } else {
    known.insert(known.end(), kCompletionFields.begin(), kCompletionFields.end());
  }
  for (const auto& [name, neutral] : kNeutralFields) {
    known.emplace_back(name);
    const json* value = read.find(name);
    if (value == nullptr || *value == json::parse(neutral)) continue;
    read.complain(name, std::string(neutral) + ": this server does nothing else there");
  }
  check_names(body, known, "", read);
}

void read_sampling(FieldReader& read, CompletionRequest& request) {
  SamplingParams& sampling = request.sampling;
  sampling.temperature = 1;
  read.number("temperature", sampling.temperature, 0, 100);
  read.number("top_p", sampling.top_p, 0, 1);
  read.number("min_p", sampling.min_p, 0, 1);
  read.integer("top_k", sampling.top_k, -1, 1 << 22);
  sampling.top_k = std::max(sampling.top_k, 0);
  read.number("presence_penalty", sampling.presence_penalty, -2, 2);
  read.number("frequency_penalty", sampling.frequency_penalty, -2, 2);
  request.has_seed = read.integer("seed", sampling.seed, INT64_MIN, INT64_MAX);
}

void read_stop(FieldReader& read, CompletionRequest& request) {
  const json* stop = read.find("stop");
  if (stop == nullptr) return;
  const json list = stop->is_string() ? json::array({*stop}) : *stop;
  const auto stops = std::make_shared<std::vector<std::string>>();
  if (!list.is_array() || list.size() > limits::kStopsPerRequest) {
    return read.complain("stop", "a string or up to 16 strings");
  }
  size_t num_bytes = 0;
  for (const json& text : list) {
    if (text.is_string()) num_bytes += text.get_ref<const std::string&>().size();
    if (num_bytes > limits::kStopBytesPerRequest) {
      return read.complain(
          "stop",
          "strings of up to " + std::to_string(limits::kStopBytesPerRequest) + " bytes together");
    }
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
      return read.complain("stop", "strings that are not empty");
    }
    stops->push_back(text.get<std::string>());
  }
  request.stop = std::move(stops);
}

void read_stream(FieldReader& read, CompletionRequest& request) {
  read.boolean("stream", request.stream);
  const json* options = read.find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return read.complain("stream_options", "an object");
  if (!request.stream) return read.complain("stream_options is only for \"stream\": true");
  check_names(*options, {"include_usage"}, "stream_options", read);
  FieldReader inner(*options);
  inner.boolean("include_usage", request.include_usage);
  if (!inner.complaint().empty()) read.complain("stream_options." + inner.complaint());
}

void read_logprobs(FieldReader& read, CompletionRequest& request) {
  if (!request.chat) {
    int count = 0;
    if (read.integer("logprobs", count, 0, 20)) request.logprobs = count;
    return;
  }
  bool wanted = false;
  read.boolean("logprobs", wanted);
  int count = 0;
  const bool has_count = read.integer("top_logprobs", count, 0, 20);
  if (has_count && !wanted) return read.complain("top_logprobs needs \"logprobs\": true");
  if (wanted) request.logprobs = count;
}

void add_text(FieldReader& read,
              const Tokenizer& tokenizer,
              const ModelConfig& config,
              const json& text,
              CompletionRequest& request) {
  Result<std::vector<int32_t>> ids = tokenizer.encode(text.get_ref<const std::string&>());
  if (!ids.ok()) return read.complain("prompt: " + ids.error().message);
  ids->insert(ids->begin(), config.bos_token_id);
  request.prompts.push_back(std::move(*ids));
}

// A string, token ids, or an array of either.
void read_prompt(FieldReader& read,
                 const Tokenizer& tokenizer,
                 const ModelConfig& config,
                 CompletionRequest& request) {
  const std::string expected =
      "a string, token ids, or up to " + std::to_string(kPromptsPerRequest) + " of either";
  const json* prompt = read.find("prompt");
  if (prompt == nullptr) return read.complain("prompt is missing; expected " + expected);
  const auto is_id = [](const json& id) { return id.is_number_integer(); };
  const auto is_ids = [&](const json& ids) {
    return ids.is_array() && !ids.empty() && std::all_of(ids.begin(), ids.end(), is_id);
  };
  const json list = prompt->is_string() || is_ids(*prompt) ? json::array({*prompt}) : *prompt;
  if (!list.is_array() || list.empty() || list.size() > kPromptsPerRequest) {
    return read.complain("prompt", expected);
  }
  for (const json& one : list) {
    if (one.is_string()) {
      add_text(read, tokenizer, config, one, request);
    } else if (is_ids(one)) {
      std::vector<int32_t>& ids = request.prompts.emplace_back();
      for (const json& id : one) {
        const int64_t value = id.get<int64_t>();
        if (value < 0 || value >= config.vocab_size) {
          return read.complain("prompt holds token " + id.dump() + ", but the vocabulary has " +
                               std::to_string(config.vocab_size));
        }
        ids.push_back(static_cast<int32_t>(value));
      }
    } else {
      return read.complain("prompt", expected);
    }
  }
}

// Clients give back an earlier answer with all of its fields, those included that say nothing.
void check_message_names(const json& message, const std::string& at, FieldReader& read) {
  json meant = json::object();
  for (const auto& [name, value] : message.items()) {
    const bool says_nothing = value.is_structured() && value.empty();
    if (!says_nothing) meant[name] = value;
  }
  check_names(meant, {"role", "content", "name", "reasoning_content", "refusal"}, at, read);
}

// A message's text: a string, or parts of type text.
std::optional<std::string> content_text(const json& message) {
  const auto content = message.find("content");
  if (content == message.end()) return std::nullopt;
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) return std::nullopt;
  std::string text;
  for (const json& part : *content) {
    const bool is_text = part.is_object() && part.value("type", json()) == "text" &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) return std::nullopt;
    text += part["text"].get<std::string>();
  }
  return text;
}

void read_messages(FieldReader& read, const Tokenizer& tokenizer, CompletionRequest& request) {
  const json* messages = read.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return read.complain("messages is missing or empty; expected a list of {role, content}");
  }
  std::vector<ChatMessage> chat;
  for (const json& message : *messages) {
    const std::string at = "messages[" + std::to_string(chat.size()) + "]";
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return read.complain(at + " is no object with a role");
    }
    check_message_names(message, at, read);
    const std::string role = message["role"].get<std::string>();
    const std::optional<std::string> text = content_text(message);
    if (!text) return read.complain(at + ".content is neither a string nor a list of text parts");
    ChatMessage& parsed = chat.emplace_back();
    parsed.content = *text;
    if (role == "system" || role == "developer") {
      parsed.role = ChatRole::kSystem;
    } else if (role == "assistant") {
      parsed.role = ChatRole::kAssistant;
    } else if (role != "user") {
      return read.complain(at + ".role is " + message["role"].dump().substr(0, 40) +
                           ", expected system, user or assistant");
    }
  }
  ChatOptions options;
  if (const json* arguments = read.find("chat_template_kwargs")) {
    if (!arguments->is_object()) return read.complain("chat_template_kwargs", "an object");
    check_names(*arguments, {"thinking"}, "chat_template_kwargs", read);
    FieldReader inner(*arguments);
    inner.boolean("thinking", options.thinking);
    if (!inner.complaint().empty()) read.complain("chat_template_kwargs." + inner.complaint());
  }
  request.reasons = options.thinking;
  Result<std::vector<int32_t>> ids = encode_chat(tokenizer, chat, options);
  if (!ids.ok()) return read.complain("messages: " + ids.error().message);
  request.prompts.push_back(std::move(*ids));
}

}  // namespace

Result<CompletionRequest> parse_completion(const json& body,
                                           bool chat,
                                           const Tokenizer& tokenizer,
                                           const ModelConfig& config,
                                           int64_t max_sequence_tokens) {
  if (!body.is_object()) return invalid_argument("the body is not a JSON object");
  FieldReader read(body);
  CompletionRequest request{.chat = chat};
  check_names(body, chat, read);
  read_sampling(read, request);
  read_stop(read, request);
  read_stream(read, request);
  read_logprobs(read, request);
  read.integer("n", request.n, 1, kChoicesPerPrompt);
  read.boolean("ignore_eos", request.ignore_eos);
  if (const json* model = read.find("model"); model != nullptr && !model->is_string()) {
    read.complain("model", "a string");
  }
  if (chat) {
    request.max_tokens = max_sequence_tokens;
    read.integer("max_tokens", request.max_tokens, 1, INT32_MAX);
    read.integer("max_completion_tokens", request.max_tokens, 1, INT32_MAX);
    read_messages(read, tokenizer, request);
  } else {
    read.integer("max_tokens", request.max_tokens, 0, INT32_MAX);
    read.boolean("echo", request.echo);
    int best_of = request.n;
    if (read.integer("best_of", best_of, 1, kChoicesPerPrompt) && best_of != request.n) {
      read.complain("best_of", "the value of n: this server ranks no answers");
    }
    read_prompt(read, tokenizer, config, request);
  }
  if (!read.complaint().empty()) return invalid_argument(read.complaint());
  int64_t num_prompt_tokens = 0;
  for (const std::vector<int32_t>& prompt : request.prompts) {
    const auto num_tokens = static_cast<int64_t>(prompt.size());
    num_prompt_tokens += num_tokens * request.n;
    if (num_tokens >= max_sequence_tokens) {
      return invalid_argument("the prompt has " + std::to_string(num_tokens) +
                              " tokens, but prompt and answer together may have at most " +
                              std::to_string(max_sequence_tokens));
    }
  }
  if (num_prompt_tokens > limits::kPromptTokensPerRequest) {
    return invalid_argument("the prompts of all answers have " + std::to_string(num_prompt_tokens) +
                            " tokens, but one request may have at most " +
                            std::to_string(limits::kPromptTokensPerRequest));
  }
  if (!request.stream &&
      request.num_logprobs(max_sequence_tokens) > limits::kHeldLogprobsPerRequest) {
    return invalid_argument("the answers may hold " +
                            std::to_string(request.num_logprobs(max_sequence_tokens)) +
                            " log probabilities, but an answer sent whole may hold at most " +
                            std::to_string(limits::kHeldLogprobsPerRequest) +
                            "; ask with \"stream\": true, for fewer answers or for fewer tokens");
  }
  return request;
}

int64_t CompletionRequest::num_logprobs(int64_t max_sequence_tokens) const {
  if (!logprobs) return 0;
  int64_t num_tokens = 0;
  for (const std::vector<int32_t>& prompt : prompts) {
    const auto num_prompt = static_cast<int64_t>(prompt.size());
    num_tokens += std::min(max_tokens, max_sequence_tokens - num_prompt) + (echo ? num_prompt : 0);
  }
  return num_tokens * n * (1 + *logprobs);
}

}  // namespace plimsoll
