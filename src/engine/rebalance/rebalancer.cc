#include "engine/rebalance/rebalancer.h"

#include <algorithm>
#include <cstdio>

#include "engine/rebalance/background.h"
#include "ep/stopwatch.h"

namespace plimsoll {
namespace {

constexpr double kFirstGuess = 50e-6;  // of a layer's switch, in seconds

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string duration(double seconds) {
  if (seconds < 1e-3) return fixed(seconds * 1e6, 0) + " us";
  if (seconds < 1) return fixed(seconds * 1e3, 1) + " ms";
  return fixed(seconds, 1) + " s";
}

std::string heading(const RebalanceReport& report) {
  return "rebalance " + std::to_string(report.number) + ": ";
}

std::string switched_text(const RebalanceReport& r, int num_layers) {
  return heading(r) + std::to_string(r.num_layers) + " of " + std::to_string(num_layers) +
         " layers switched, " + std::to_string(r.num_moved) + " experts moved; max/mean " +
         fixed(r.max_over_mean_before, 3) + ", " + fixed(r.max_over_mean_predicted, 3) +
         " predicted; gain " + duration(r.gain_seconds) + " for " + duration(r.cost_seconds) +
         " predicted; planned in " + duration(r.plan_seconds) + ", switched in " +
         duration(r.switch_seconds) + ", longest pause " + duration(r.longest_pause_seconds);
}

}  // namespace

Rebalancer::Rebalancer(const RebalanceOptions& options,
                       const Placement& in_force,
                       SwitchLayer switch_layer,
                       BringLayer bring_layer,
                       Plan plan)
    : options_(options),
      in_force_(in_force),
      switch_layer_(std::move(switch_layer)),
      bring_layer_(std::move(bring_layer)),
      plan_(std::move(plan)),
      costs_{.seconds_per_switch = kFirstGuess,
             .seconds_per_moved_expert = options.seconds_per_moved_expert} {
  for (auto* window : {&window_, &spare_window_}) {
    *window = std::make_unique<LoadWindow>(in_force.num_layers, in_force.num_logical_experts,
                                           options.num_iterations);
  }
  planner_ = std::jthread([this](std::stop_token stop) { serve_jobs(stop); });
}

void Rebalancer::serve_jobs(std::stop_token stop) {
  step_back();
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return todo_.has_value(); })) return;
      job = std::move(*todo_);
      todo_.reset();
    }
    Stopwatch watch;
    job.task.runs = job.window->runs();
    job.task.samples = job.window->samples();
    job.plan = plan_(job.task);
    job.window->clear();
    watch.lap(job.seconds);
    const std::lock_guard lock(mutex_);
    done_ = std::move(job);
  }
}

Status Rebalancer::start_turn() {
  if (state_ != State::kWatching) return unavailable("a rebalance is under way");
  if (window_->num_steps() == 0) {
    return unavailable(
        "no step has been run since the last rebalance, so there is no load to plan for");
  }
  measure_last_turn();
  report_ = {.number = stats_.num_rebalances + stats_.num_skipped + stats_.num_failed + 1,
             .num_steps = window_->num_steps()};
  costs_.seconds_per_pair = window_->seconds_per_pair();
  Job job{.task = {.in_force = in_force_,
                   .route = options_.route,
                   .top_k = options_.top_k,
                   .algorithm = options_.algorithm,
                   .num_nodes = options_.num_nodes,
                   .num_steps_ahead = options_.num_iterations,
                   .costs = costs_},
          .window = std::exchange(window_, std::move(spare_window_))};
  {
    const std::lock_guard lock(mutex_);
    todo_ = std::move(job);
  }
  changed_.notify_one();
  state_ = State::kPlanning;
  return ok_status();
}

void Rebalancer::before_step() {
  if (state_ == State::kPlanning || state_ == State::kAbandoned) take_plan();
  if (state_ == State::kSwitching) switch_chunk();
}

void Rebalancer::after_step(const StepResult& result) {
  window_->add(result);
  if (state_ != State::kWatching || window_->num_steps() < options_.num_iterations) return;
  if (window_->utilization() <= options_.max_utilization) {
    (void)start_turn();  // the window is full, and nothing is under way
    return;
  }
  measure_last_turn();
  ++stats_.num_skipped;
  window_->clear();
}

// What became of the last turn, as far as the window shows it.
void Rebalancer::measure_last_turn() {
  if (!stats_.last || stats_.last->num_layers == 0 || stats_.last->max_over_mean_measured) return;
  stats_.last->max_over_mean_measured = window_->max_over_mean();
  news_.push_back(heading(*stats_.last) + "max/mean " +
                  fixed(stats_.last->max_over_mean_before, 3) + " before, " +
                  fixed(stats_.last->max_over_mean_predicted, 3) + " predicted, " +
                  fixed(window_->max_over_mean(), 3) + " measured over " +
                  std::to_string(window_->num_steps()) + " steps");
}

void Rebalancer::take_plan() {
  std::optional<Job> job;
  {
    const std::lock_guard lock(mutex_);
    std::swap(job, done_);
  }
  if (!job) return;
  spare_window_ = std::move(job->window);
  if (state_ == State::kAbandoned) {
    state_ = State::kWatching;
    return;
  }
  report_.plan_seconds = job->seconds;
  if (!job->plan.ok()) return fail("planning failed: " + job->plan.error().message);
  const RebalancePlan& plan = *job->plan;
  report_.gain_seconds = plan.gain_seconds;
  report_.cost_seconds = plan.cost_seconds;
  report_.max_over_mean_before = plan.max_over_mean_now;
  report_.max_over_mean_predicted = plan.max_over_mean_planned;
  layers_.assign(std::make_move_iterator(job->plan->layers.begin()),
                 std::make_move_iterator(job->plan->layers.end()));
  num_moved_.assign(plan.num_moved.begin(), plan.num_moved.end());
  state_ = State::kSwitching;
  if (layers_.empty()) {
    ++stats_.num_skipped;
    news_.push_back(heading(report_) + "no layer gains enough to be switched; max/mean " +
                    fixed(report_.max_over_mean_before, 3));
    end_turn();
  }
}

void Rebalancer::switch_chunk() {
  double pause = 0;
  for (int i = 0; i < options_.layers_per_chunk && !layers_.empty(); ++i) {
    const auto brought = bring(layers_.front());
    if (!brought.ok()) return keep_layer(brought.error());
    if (!*brought) return;  // not here yet
    Stopwatch watch;
    double seconds = 0;
    const Status status = switch_layer_(layers_.front());
    watch.lap(seconds);
    pause += seconds;
    report_.switch_seconds += seconds;
    report_.longest_pause_seconds = std::max(report_.longest_pause_seconds, pause);
    if (!status.ok()) return keep_layer(status.error());
    learn_cost(seconds, **brought, num_moved_.front());
    ++report_.num_layers;
    report_.num_moved += num_moved_.front();
    layers_.pop_front();
    num_moved_.pop_front();
  }
  if (!layers_.empty()) return;
  news_.push_back(switched_text(report_, in_force_.num_layers));
  ++stats_.num_rebalances;
  end_turn();
}

Result<std::optional<double>> Rebalancer::bring(const LayerLayout& next) {
  return bring_layer_ ? bring_layer_(next) : std::optional<double>(0);
}

// What the next turn expects of a switch: the mean of the last few.
void Rebalancer::learn_cost(double switch_seconds, double bring_seconds, int num_moved) {
  constexpr double kNewest = 0.2;
  const auto learn = [](double& cost, double seconds) { cost += kNewest * (seconds - cost); };
  learn(costs_.seconds_per_switch, switch_seconds);
  if (bring_layer_ && num_moved > 0) {
    learn(costs_.seconds_per_moved_expert, bring_seconds / num_moved);
  }
}

void Rebalancer::keep_layer(const Error& why) {
  fail("layer " + std::to_string(layers_.front().layer_idx) +
       " keeps its placement: " + why.message);
}

void Rebalancer::abandon_turn() {
  if (state_ == State::kPlanning) {
    state_ = State::kAbandoned;
    window_->clear();
  } else if (state_ == State::kSwitching) {
    fail("given up: ranks are gone");
  } else {
    if (window_->num_steps() > 0) measure_last_turn();
    window_->clear();
  }
}

void Rebalancer::fail(const std::string& what) {
  report_.failure = what;
  ++stats_.num_failed;
  news_.push_back(heading(report_) + what + "; " + std::to_string(report_.num_layers) +
                  " layers were switched before");
  end_turn();
}

// What was watched while the placement changed says nothing about either placement.
void Rebalancer::end_turn() {
  stats_.num_switched_layers += report_.num_layers;
  stats_.num_moved_experts += report_.num_moved;
  stats_.longest_pause_seconds =
      std::max(stats_.longest_pause_seconds, report_.longest_pause_seconds);
  if (report_.num_layers > 0 || !report_.failure.empty()) stats_.last = report_;
  layers_.clear();
  num_moved_.clear();
  window_->clear();
  state_ = State::kWatching;
}

}  // namespace plimsoll
