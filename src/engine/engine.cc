#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "comm/byte_stream.h"
#include "engine/ranks/process_steps.h"
#include "model/checkpoint/checkpoint.h"

namespace plimsoll {
namespace {

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Error no_recorder() {
  return invalid_argument(
      "no expert distribution recorder is set up; start with "
      "--expert-distribution-recorder-mode stat, per_pass or per_token");
}

// A sequence that comes from elsewhere continues where its state ends.
Status check_arrived(const Request& request, const ModelConfig& config) {
  const SequenceState& state = *request.state;
  const auto num_tokens = static_cast<int64_t>(request.prompt.size() + request.generated.size());
  bool fits = !request.generated.empty() && state.num_tokens == num_tokens - 1 &&
              num_tokens <= config.max_position_embeddings &&
              state.padding_tokens == request.padding_tokens && state.prompt_tokens >= 0 &&
              state.prompt_tokens <= static_cast<int64_t>(request.prompt.size()) &&
              static_cast<int>(state.layers.size()) == config.num_hidden_layers;
  for (const LayerState& layer : state.layers) fits = fits && layer.num_tokens == num_tokens - 1;
  for (int32_t token : request.generated) {
    fits = fits && token >= 0 && token < config.vocab_size;
  }
  if (fits) return ok_status();
  return invalid_argument("the state handed over holds " + std::to_string(state.num_tokens) +
                          " tokens, expected those of a sequence of " + std::to_string(num_tokens) +
                          " but the last, in all layers");
}

// The experts with a slot on the given ranks.
ExpertFilter experts_of(const Placement& placement, RankBlock ranks) {
  return [&placement, ranks](int layer_idx, int expert) {
    const auto slots = slots_on(placement.layer(layer_idx), placement.slots_per_rank(), ranks);
    return std::ranges::find(slots, expert) != slots.end();
  };
}

// What must be equal in all processes, as far as files and flags could make it differ.
std::vector<std::byte> fingerprint(const EngineSetup& setup) {
  ByteWriter writer;
  writer(setup.layout.placement.physical_to_logical, setup.moe.backend,
         setup.moe.max_dispatch_tokens_per_rank, setup.moe.hidden_size, setup.moe.top_k,
         setup.moe.route.algorithm, setup.moe.route.waterfill, setup.recorder.has_value(),
         setup.rebalance.has_value(), setup.elastic);
  return std::move(writer).take();
}

// Every process says whether it got this far; all go on, or none.
Status agree(ProcessMesh* mesh, const Status& mine) {
  if (mesh == nullptr) return mine;
  const auto all = mesh->share(mine.ok() ? Result<std::vector<std::byte>>(std::vector<std::byte>{})
                                         : mine.error());
  return all.ok() ? ok_status() : Status(all.error());
}

Status agree_on_setup(ProcessMesh* mesh, const Result<EngineSetup>& setup) {
  if (mesh == nullptr) return setup.ok() ? ok_status() : Status(setup.error());
  const auto all =
      mesh->share(setup.ok() ? Result<std::vector<std::byte>>(fingerprint(*setup)) : setup.error());
  if (!all.ok()) return all.error();
  for (int p = 1; p < mesh->num_processes(); ++p) {
    if ((*all)[p] == (*all)[0]) continue;
    return invalid_argument(mesh->name(p) +
                            " has other options, or another placement, than process 0; give all "
                            "processes the same command line and files");
  }
  return ok_status();
}

Result<EngineSetup> make_setup(const EngineOptions& options) {
  const Result<ModelConfig> config = load_config(options.model_dir);
  return config.ok() ? check_options(options, *config) : Result<EngineSetup>(config.error());
}

// Of the ranks here: where they are on a GPU the first has the config alone.
struct HeldWeights {
  ModelWeights cpu;
  std::unique_ptr<gpu::PackedModel> gpu;
};

// With one process these are all experts: a placement leaves out none.
Result<HeldWeights> load_held(const Result<Checkpoint>& checkpoint,
                              const EngineSetup& setup,
                              const ProcessMesh* mesh) {
  if (!checkpoint.ok()) return checkpoint.error();
  const Placement& placement = setup.layout.placement;
  const RankBlock ranks =
      mesh ? ranks_of(mesh->process(), mesh->num_processes(), placement.num_ranks)
           : RankBlock{0, placement.num_ranks};
  const ExpertFilter wanted = experts_of(placement, ranks);
  HeldWeights held;
  if (setup.device.kind == DeviceKind::kCpu) {
    Result<ModelWeights> weights = load_weights(*checkpoint, checkpoint->config(), wanted);
    if (!weights.ok()) return weights.error();
    held.cpu = std::move(*weights);
  } else {
    auto model = gpu::load_packed_model(*checkpoint, place_of(setup.device.kind), wanted);
    if (!model.ok()) return model.error();
    held.cpu.config = checkpoint->config();
    held.gpu = std::move(*model);
  }
  return held;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  ProcessMesh* const mesh = options.mesh;
  Result<EngineSetup> setup = make_setup(options);
  if (Status status = agree_on_setup(mesh, setup); !status.ok()) return status.error();
  if (!setup->device.note.empty()) setup->notes.push_back(setup->device.note);
  Result<Checkpoint> checkpoint = Checkpoint::open(options.model_dir);
  Result<HeldWeights> weights = load_held(checkpoint, *setup, mesh);
  if (Status status = agree(mesh, weights.ok() ? ok_status() : Status(weights.error()));
      !status.ok()) {
    return status.error();
  }
  std::optional<ProcessParts> processes;
  if (mesh != nullptr) {
    auto group = ProcessGroup::create(*mesh, options.ep_size);
    if (!group.ok()) return group.error();
    processes.emplace(*mesh, std::move(*group), std::move(*checkpoint));
  }
  return std::unique_ptr<Engine>(new Engine(std::move(weights->cpu), std::move(weights->gpu),
                                            std::move(*setup), options, std::move(processes)));
}

Engine::Engine(ModelWeights weights,
               std::unique_ptr<gpu::PackedModel> model,
               EngineSetup setup,
               const EngineOptions& options,
               std::optional<ProcessParts> processes)
    : setup_(std::move(setup)),
      recorder_(setup_.recorder ? std::optional<Recorder>(*setup_.recorder) : std::nullopt),
      mesh_(options.mesh),
      ranks_(std::move(weights),
             std::move(model),
             setup_.layout,
             setup_.moe,
             recorder_or_null(),
             options.pin_ranks,
             std::move(processes)),
      scheduler_(setup_.limits),
      eplb_algorithm_(options.eplb_algorithm) {
  if (setup_.rebalance && (mesh_ == nullptr || leads())) start_rebalancer();
  const Placement& placement = setup_.layout.placement;
  load_ = {1, placement.num_layers, placement.num_logical_experts, {}};
  load_.counts.resize(int64_t{load_.num_layers} * load_.num_logical_experts);
}

void Engine::start_rebalancer() {
  const auto switch_here = [this](LayerLayout& next) {
    plimsoll::switch_layer(setup_.layout, next);  // all ranks share the experts
    return ok_status();
  };
  const auto switch_all = [this](LayerLayout& next) {
    ranks_.moves().put_in_force(next.layer_idx);
    layer_orders_.put_in_force.push_back(next.layer_idx);
    return ok_status();
  };
  const auto bring = [this](const LayerLayout& next) { return bring_layer(next); };
  if (mesh_ == nullptr) {
    rebalancer_.emplace(*setup_.rebalance, setup_.layout.placement, switch_here);
  } else {
    rebalancer_.emplace(*setup_.rebalance, setup_.layout.placement, switch_all, bring);
  }
}

Engine::~Engine() {
  if (leads()) end_steps(*mesh_);
}

Status Engine::follow() {
  return follow_steps(ranks_, setup_.elastic);
}

Status Engine::health() const {
  const int num_needed = mesh_ == nullptr ? 0 : setup_.elastic ? 1 : mesh_->num_processes();
  for (int p = 0; p < num_needed; ++p) {
    if (!mesh_->alive(p)) return mesh_->death(p);
  }
  return ok_status();
}

int Engine::num_living_ranks() const {
  if (mesh_ == nullptr) return setup_.limits.num_ranks;
  int num_alive = 0;
  for (int p = 0; p < mesh_->num_processes(); ++p) num_alive += mesh_->alive(p);
  return num_alive * (setup_.limits.num_ranks / mesh_->num_processes());
}

Status Engine::check(const Request& request) const {
  const auto num_tokens = static_cast<int64_t>(request.prompt.size());
  if (num_tokens == 0) return invalid_argument("the prompt has no tokens");
  if (num_tokens > setup_.limits.max_sequence_tokens) {
    return invalid_argument("the prompt has " + std::to_string(num_tokens) +
                            " tokens, but the model takes at most " +
                            std::to_string(setup_.limits.max_sequence_tokens));
  }
  if (request.padding_tokens < 0 || request.padding_tokens > num_tokens) {
    return invalid_argument("the prompt of " + std::to_string(num_tokens) + " tokens has " +
                            std::to_string(request.padding_tokens) + " tokens of padding");
  }
  if (request.max_tokens < 0 || request.num_top_logprobs < -1 ||
      request.num_top_logprobs > config().vocab_size) {
    return invalid_argument("max_tokens or num_top_logprobs is out of range");
  }
  const SamplingParams& s = request.sampling;
  const bool is_finite = std::isfinite(s.temperature) && std::isfinite(s.top_p) &&
                         std::isfinite(s.min_p) && std::isfinite(s.presence_penalty) &&
                         std::isfinite(s.frequency_penalty);
  if (!is_finite || s.temperature < 0 || s.top_p < 0 || s.min_p < 0 || s.top_k < 0) {
    return invalid_argument("a sampling parameter is out of range");
  }
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= config().vocab_size) {
      return invalid_argument("the prompt holds token " + std::to_string(token) +
                              ", but the vocabulary has " + std::to_string(config().vocab_size));
    }
  }
  if (mesh_ != nullptr && (request.state || request.hand_over)) {
    return unsupported("a sequence cannot be handed over where several processes hold the ranks");
  }
  return request.state ? check_arrived(request, config()) : ok_status();
}

Status Engine::submit(Request request) {
  if (Status status = check(request); !status.ok()) return status;
  scheduler_.add(std::move(request));
  return ok_status();
}

Status Engine::switch_layer(int layer_idx, std::span<const int32_t> slots) {
  Result<LayerLayout> next =
      make_layer_layout(setup_.layout.placement, layer_idx, slots, setup_.moe.route);
  if (!next.ok()) return next.error();
  if (mesh_ == nullptr) {
    pending_.push_back(std::move(*next));
    return ok_status();
  }
  if (bringing_.contains(layer_idx)) return unavailable("the layer is about to be switched");
  (void)bring_layer(*next);
  Outcome outcome;
  Status ready = lead_moves(ranks_, std::exchange(layer_orders_, {}), outcome);
  note_moves(outcome.moves);
  if (ready.ok()) {
    const auto brought = bring_layer(*next);
    if (!brought.ok()) ready = brought.error();
  }
  if (!ready.ok()) {
    forget_move(layer_idx);
    return ready;
  }
  ranks_.moves().put_in_force(layer_idx);
  return lead_moves(ranks_, {.put_in_force = {layer_idx}}, outcome);
}

Status Engine::step(std::vector<RequestUpdate>& updates) {
  while (true) {
    for (LayerLayout& next : pending_) plimsoll::switch_layer(setup_.layout, next);
    pending_.clear();
    if (rebalancer_) rebalancer_->before_step();
    plan_ = scheduler_.plan();
    Outcome outcome;
    Status ran = run(plan_, result_, outcome);
    if (ran.ok()) break;
    if (!leads() || !setup_.elastic) return ran;
    Status goes_on = go_on_without_the_dead(ran, std::move(outcome));
    if (!goes_on.ok()) return goes_on;
  }
  if (recorder_) end_recorded_pass();
  if (rebalancer_) rebalancer_->after_step(result_);
  if (setup_.elastic) {
    std::ranges::transform(load_.counts, result_.balance.expert_counts, load_.counts.begin(),
                           std::plus<>());
  }
  scheduler_.apply(plan_, result_, updates);
  return ok_status();
}

Status Engine::run(const StepPlan& plan, StepResult& result, Outcome& outcome) {
  if (!leads()) return ranks_.run(plan, result);
  Status ran = lead_step(ranks_, std::exchange(layer_orders_, {}), plan, result, outcome);
  note_moves(outcome.moves);
  return ran;
}

Status Engine::drop_ended() {
  const std::optional<StepPlan> plan = scheduler_.plan_drop();
  if (!plan) return ok_status();
  StepResult nothing;
  Outcome outcome;
  Status dropped = run(*plan, nothing, outcome);
  if (dropped.ok() || !leads() || !setup_.elastic) return dropped;
  return go_on_without_the_dead(dropped, std::move(outcome));
}

// Asks all processes, with the next step, for the experts of the layer, and says when they have
// them.
Result<std::optional<double>> Engine::bring_layer(const LayerLayout& next) {
  const auto [found, is_new] = bringing_.try_emplace(next.layer_idx);
  const Bringing move = found->second;
  if (is_new) {
    found->second.num_left = static_cast<int>(ranks_.group().members().size());
    ranks_.moves().prepare({next.layer_idx, next.slots});
    layer_orders_.prepare.push_back({next.layer_idx, next.slots});
    return std::optional<double>();
  }
  if (!move.error.empty()) {
    forget_move(next.layer_idx);
    return unavailable(move.error);
  }
  if (move.num_left > 0) return std::optional<double>();
  bringing_.erase(found);
  return std::optional(move.seconds);
}

void Engine::forget_move(int layer_idx) {
  bringing_.erase(layer_idx);
  ranks_.moves().forget(layer_idx);
  layer_orders_.forget.push_back(layer_idx);
}

void Engine::note_moves(const std::vector<MoveReport>& reports) {
  for (const MoveReport& report : reports) {
    const auto found = bringing_.find(report.layer_idx);
    if (found == bringing_.end()) continue;
    --found->second.num_left;
    found->second.seconds = std::max(found->second.seconds, report.seconds);
    if (found->second.error.empty()) found->second.error = report.error;
  }
}

Status Engine::start_rebalance() {
  if (!rebalancer_) return invalid_argument("online EPLB is off; start with --enable-eplb");
  return rebalancer_->start_turn();
}

std::vector<std::string> Engine::take_news() {
  std::vector<std::string> news = std::exchange(news_, {});
  if (rebalancer_) std::ranges::move(rebalancer_->take_news(), std::back_inserter(news));
  return news;
}

void Engine::end_recorded_pass() {
  bool any_prompt = false;
  bool any_decode = false;
  for (const RankPlan& rank : plan_.ranks) {
    for (const SegmentPlan& segment : rank.segments) {
      (segment.is_prompt ? any_prompt : any_decode) = true;
    }
  }
  ForwardMode mode = any_prompt ? ForwardMode::kExtend : ForwardMode::kDecode;
  if (any_prompt && any_decode) mode = ForwardMode::kMixed;
  recorder_->end_pass(mode, result_.balance.routed_load);
}

Status Engine::start_recording() {
  if (!recorder_) return no_recorder();
  recorder_->start(unix_time());
  return ok_status();
}

Status Engine::stop_recording() {
  if (!recorder_) return no_recorder();
  recorder_->stop(unix_time());
  return ok_status();
}

Result<std::vector<std::string>> Engine::dump_recording(const std::string& folder) {
  if (!recorder_) return no_recorder();
  if (recorder_->num_passes() == 0) {
    return invalid_argument(
        "nothing was recorded, so there is nothing to dump; start a recording and serve requests "
        "before the dump");
  }
  const bool was_recording = recorder_->recording();
  const double now = unix_time();
  const std::vector<Recording> recordings =
      recorder_->recordings({.model_type = config().model_type,
                             .eplb_algorithm = eplb_algorithm_,
                             .placement = setup_.layout.placement},
                            now);
  Result<std::vector<std::string>> paths = save_recordings(recordings, folder, now);
  if (!paths.ok()) return paths;  // what was recorded stays
  recorder_->start(now);
  if (!was_recording) recorder_->stop(now);
  return paths;
}

}  // namespace plimsoll
