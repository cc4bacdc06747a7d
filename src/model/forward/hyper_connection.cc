#include "model/forward/hyper_connection.h"

namespace plimsoll {

void collapse_streams(ForwardWorkspace& workspace,
                      const HyperConnectionWeights& weights,
                      const float* streams,
                      int num_tokens,
                      float* u) {
  const ModelConfig& config = workspace.config;
  const Kernels& kernels = workspace.kernels;
  const int n = config.hc_mult;
  const int dim = config.hidden_size;
  const int num_mixes = weights.mix.num_outputs;
  float* mix = workspace.mix.at_least(num_tokens, num_mixes);
  float* inverse_rms = workspace.inverse_rms.at_least(num_tokens, 1);
  multiply(kernels, streams, n * dim, num_tokens, weights.mix, mix, num_mixes);
  kernels.inverse_rms(streams, n * dim, num_tokens, n * dim, config.rms_norm_eps, inverse_rms);

  HyperMixArgs args;
  args.mix = mix;
  args.mix_stride = num_mixes;
  args.inverse_rms = inverse_rms;
  args.scale = weights.scale.data();
  args.base = weights.base.data();
  args.eps = config.hc_eps;
  args.num_streams = n;
  args.sinkhorn_iterations = config.hc_sinkhorn_iters;
  args.num_tokens = num_tokens;
  args.pre = workspace.pre.at_least(num_tokens, n);
  if (num_mixes > n) {
    args.post = workspace.post.at_least(num_tokens, n);
    args.comb = workspace.comb.at_least(num_tokens, n * n);
  }
  kernels.hyper_mix(args);
  kernels.hyper_collapse(streams, args.pre, num_tokens, n, dim, u);
}

void expand_streams(ForwardWorkspace& workspace, const float* output) {
  workspace.kernels.hyper_expand(output, workspace.post.data(), workspace.comb.data(),
                                 workspace.num_tokens, workspace.config.hc_mult,
                                 workspace.config.hidden_size, workspace.streams.data());
}

}  // namespace plimsoll
