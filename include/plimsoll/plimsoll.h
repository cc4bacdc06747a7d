/* Plimsoll for C, and for every language that can call C (C99; also valid C++).
 *
 * Functions that can fail return a plimsoll_code; plimsoll_error_message() then says, in a
 * sentence, what was found, what was expected and what to do. Nothing prints, aborts or throws.
 * Objects are made by functions that write a handle, and given back with the matching _free, which
 * takes NULL. Other arrays are the caller's: they are read or filled during the call and not kept.
 * Shapes are given as [rows, columns], row-major. Sizes: layers, experts (logical), slots (physical
 * experts), ranks; the slots of rank r are the contiguous block r. Loads and counts are tokens.
 *
 * A handle may be read by many threads at once, but a plimsoll_router serves one at a time.
 * Hostile files are refused and nothing in them is executed; what reading one takes is bounded by
 * its length, not by the sizes it claims.
 */
#ifndef PLIMSOLL_PLIMSOLL_H_
#define PLIMSOLL_PLIMSOLL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum plimsoll_code {
  PLIMSOLL_OK = 0,
  PLIMSOLL_INVALID_ARGUMENT = 1, /* asked for something that cannot be, or NULL where it must not */
  PLIMSOLL_CORRUPT_FILE = 2,     /* a file's bytes break its format */
  PLIMSOLL_UNSUPPORTED = 3,      /* well formed, but not something this version handles */
  PLIMSOLL_IO = 4,               /* the operating system refused */
  PLIMSOLL_UNAVAILABLE = 5,      /* something is gone or full; trying again may help */
  PLIMSOLL_OUT_OF_MEMORY = 6
} plimsoll_code;

/* About the last call of this thread that failed; never NULL, valid until its next failure. */
const char* plimsoll_error_message(void);

/* "0.1.0". Versions are compatible as long as the first two numbers are the same. */
const char* plimsoll_version(void);

/* ---- Load: what traffic selected, tokens by [steps, layers, experts] ---- */

typedef struct plimsoll_load plimsoll_load;

/* Copies counts, not negative. */
plimsoll_code plimsoll_load_create(int32_t num_steps,
                                   int32_t num_layers,
                                   int32_t num_experts,
                                   const int64_t* counts,
                                   plimsoll_load** load);
/* Recordings (.pt), .json, .npy or .u8 traces. Several recordings are those of several ranks of one
 * run, or follow each other; the steps of several other files follow each other. */
plimsoll_code plimsoll_load_read(const char* const* paths, size_t num_paths, plimsoll_load** load);
/* As an expert distribution recorder's .pt file of the mode stat, a step a pass. Counts above
 * 2^31 - 1 do not fit. */
plimsoll_code plimsoll_load_write(const plimsoll_load* load, const char* path);
int32_t plimsoll_load_num_steps(const plimsoll_load* load);
int32_t plimsoll_load_num_layers(const plimsoll_load* load);
int32_t plimsoll_load_num_experts(const plimsoll_load* load);
const int64_t* plimsoll_load_counts(const plimsoll_load* load); /* [steps, layers, experts] */
void plimsoll_load_free(plimsoll_load* load);

/* ---- Placement: the expert in every slot, by [layers, slots] ---- */

typedef struct plimsoll_placement plimsoll_placement;

/* Copies physical_to_logical. Every expert must have a slot in every layer, and the slots must
 * divide over the ranks. */
plimsoll_code plimsoll_placement_create(int32_t num_layers,
                                        int32_t num_experts,
                                        int32_t num_slots,
                                        int32_t num_ranks,
                                        const int32_t* physical_to_logical,
                                        plimsoll_placement** placement);
/* .json or .pt (SGLang's), .yaml (TensorRT-LLM's) or .npy; files do not say these three numbers. */
plimsoll_code plimsoll_placement_read(const char* path,
                                      int32_t num_layers,
                                      int32_t num_experts,
                                      int32_t num_ranks,
                                      plimsoll_placement** placement);
/* In the format that the path ends in. first_layer: the model's layer of the first row; only .yaml
 * says it. */
plimsoll_code plimsoll_placement_write(const plimsoll_placement* placement,
                                       const char* path,
                                       int32_t first_layer);
int32_t plimsoll_placement_num_layers(const plimsoll_placement* placement);
int32_t plimsoll_placement_num_experts(const plimsoll_placement* placement);
int32_t plimsoll_placement_num_slots(const plimsoll_placement* placement);
int32_t plimsoll_placement_num_ranks(const plimsoll_placement* placement);
const int32_t* plimsoll_placement_map(const plimsoll_placement* placement); /* [layers, slots] */
void plimsoll_placement_free(plimsoll_placement* placement);

/* ---- Plans, and how good a placement is ---- */

typedef struct plimsoll_plan_options {
  const char* algorithm; /* NULL: plimsoll; else one of plimsoll_algorithm() */
  int32_t num_ranks;
  int32_t num_redundant_experts; /* with the experts, a multiple of num_ranks */
  int32_t num_nodes;
  int32_t num_groups; /* expert groups of the model; 0: it has none */
  const uint8_t*
      active_ranks; /* [num_ranks], 0 for a dead one (elasticity_aware); NULL: all live */
  const plimsoll_placement* in_force; /* few experts should leave it; NULL: none */
  int32_t max_moved_experts;          /* how many may, over all layers; -1: any number */
  const char* dispatch; /* that will run the plan: exact, even, dynamic or static (dispatch.h);
                           NULL: exact */
} plimsoll_plan_options;

/* One rank, one node, no redundant experts, nothing in force. */
void plimsoll_plan_options_init(plimsoll_plan_options* options);

/* The name of algorithm 0, 1, ...; NULL behind the last. */
const char* plimsoll_algorithm(size_t idx);

/* Which argument gives the lower bound: the mean; some expert's share per copy, however the copies
 * are spent; a hot expert's rank, which also holds the coldest ones because every slot is taken;
 * the last two together. */
typedef enum plimsoll_bound {
  PLIMSOLL_BOUND_MEAN = 0,
  PLIMSOLL_BOUND_REPLICA_BUDGET = 1,
  PLIMSOLL_BOUND_SLOT_CARDINALITY = 2,
  PLIMSOLL_BOUND_SLOT_BUDGET = 3
} plimsoll_bound;

/* How good a placement is for one layer of a load, in tokens. */
typedef struct plimsoll_certificate {
  int64_t max_load;      /* of the fullest rank under the dispatch, rounded up */
  int64_t max_load_even; /* the same, every expert split evenly over its copies, rounded up */
  double mean_load;      /* per rank */
  int64_t lower_bound;   /* no placement with as many slots has a smaller max_load */
  plimsoll_bound bound;
  int32_t hottest_expert;
  int32_t hottest_copies; /* ranks that hold it */
} plimsoll_certificate;

typedef struct plimsoll_plan plimsoll_plan;

plimsoll_code plimsoll_plan_make(const plimsoll_load* load,
                                 const plimsoll_plan_options* options,
                                 plimsoll_plan** plan);
/* These three belong to the plan and live as long as it. */
const plimsoll_placement* plimsoll_plan_placement(const plimsoll_plan* plan);
const plimsoll_certificate* plimsoll_plan_certificates(const plimsoll_plan* plan); /* [layers] */
/* Why a layer cannot do better, in a sentence; NULL for a layer that is not there. */
const char* plimsoll_plan_explain(const plimsoll_plan* plan, int32_t layer);
/* Slots, over all layers, that must load an expert their rank does not hold in force; 0 without. */
int64_t plimsoll_plan_moved_experts(const plimsoll_plan* plan);
void plimsoll_plan_free(plimsoll_plan* plan);

/* Certifies a placement against all steps of a load together. certificates: [layers], filled. */
plimsoll_code plimsoll_certify(const plimsoll_placement* placement,
                               const plimsoll_load* load,
                               plimsoll_certificate* certificates);

/* ---- The published algorithms, with the reference's answers, ties included (eplb.h) ---- */

typedef struct plimsoll_eplb_sizes {
  int32_t num_layers;
  int32_t num_experts;
  int32_t num_slots; /* a multiple of num_ranks */
  int32_t num_ranks;
  int32_t num_nodes;  /* divides num_ranks */
  int32_t num_groups; /* expert groups; hierarchical: divide the experts, a multiple of num_nodes */
} plimsoll_eplb_sizes;

/* weight: [layers, experts], finite and not negative. hierarchical: 0 or 1. Filled:
 *   physical_to_logical [layers, slots], the expert in every slot
 *   replica_index       [layers, slots], which copy of its expert it is, from 0
 *   expert_count        [layers, experts], copies of every expert */
plimsoll_code plimsoll_eplb_deepseek(const plimsoll_eplb_sizes* sizes,
                                     const float* weight,
                                     int32_t hierarchical,
                                     int32_t* physical_to_logical,
                                     int32_t* replica_index,
                                     int32_t* expert_count);
/* steps: [num_steps, layers, experts], not negative. */
plimsoll_code plimsoll_eplb_deepseek_vec(const plimsoll_eplb_sizes* sizes,
                                         const int64_t* steps,
                                         int32_t num_steps,
                                         int32_t hierarchical,
                                         int32_t* physical_to_logical,
                                         int32_t* replica_index,
                                         int32_t* expert_count);

/* ---- Routing one layer of one batch ---- */

typedef enum plimsoll_dispatch {
  PLIMSOLL_DISPATCH_EXACT = 0,  /* the smallest maximum, then the fewest messages */
  PLIMSOLL_DISPATCH_STATIC = 1, /* the copy nearest to the source rank */
  PLIMSOLL_DISPATCH_DYNAMIC = 2 /* a random copy for every token, seeded */
} plimsoll_dispatch;

/* What the fullest rank is the fullest of, with PLIMSOLL_DISPATCH_EXACT: tokens, experts at work,
 * or ns_per_expert for each of these and ns_per_token for each token. */
typedef enum plimsoll_objective {
  PLIMSOLL_OBJECTIVE_TOKENS = 0,
  PLIMSOLL_OBJECTIVE_EXPERTS = 1,
  PLIMSOLL_OBJECTIVE_TIME = 2
} plimsoll_objective;

/* Which rank's shared expert serves a token: its home's; the one that levels the ranks; or one that
 * the token draws by SGLang's published rule, from its own rank's counts or from all (route.h). */
typedef enum plimsoll_waterfill {
  PLIMSOLL_WATERFILL_OFF = 0,
  PLIMSOLL_WATERFILL_LEVEL = 1,
  PLIMSOLL_WATERFILL_SGLANG = 2,
  PLIMSOLL_WATERFILL_SGLANG_GLOBAL = 3
} plimsoll_waterfill;

typedef struct plimsoll_route_options {
  int32_t dispatch;           /* plimsoll_dispatch */
  int32_t objective;          /* plimsoll_objective */
  int32_t waterfill;          /* plimsoll_waterfill */
  int32_t num_shared_experts; /* 0: none */
  int32_t shared_cost_num;    /* of a shared expert in units of a routed one: num / den */
  int32_t shared_cost_den;
  uint64_t seed;
  int32_t ns_per_expert;
  int32_t ns_per_token;
  /* [ranks], how long each takes over a unit of load, relative to the others; 0: it is masked out.
   * NULL: all alike. */
  const int32_t* rank_cost;
} plimsoll_route_options;

/* Exact, tokens, no waterfill, one shared expert at cost 1, ranks alike. */
void plimsoll_route_options_init(plimsoll_route_options* options);

/* The tables and scratch of one layer, and the quotas of the batch that it routed last. */
typedef struct plimsoll_router plimsoll_router;

/* Where the tokens of a batch go, and the proof. The arrays belong to the router and hold until it
 * routes again. Loads are in cost units: tokens, at the usual shared cost of 1. */
typedef struct plimsoll_routing {
  const int32_t* routed;    /* [ranks, slots]: tokens of a source rank served by a slot */
  const int32_t* shared;    /* [ranks, ranks]: shared-expert tokens of a source, by rank */
  const int64_t* rank_load; /* [ranks] */
  int64_t max_load;
  int64_t lower_bound;  /* no routing of these counts has a smaller max_load */
  int64_t num_messages; /* (token, expert) pairs sent to another rank */
} plimsoll_routing;

plimsoll_code plimsoll_router_create(const plimsoll_placement* placement,
                                     int32_t layer,
                                     const plimsoll_route_options* options,
                                     plimsoll_router** router);
/* counts: [ranks, experts], how often the tokens of a source rank chose an expert.
 * active_tokens: [ranks], tokens of a source that need the shared expert.
 * Allocates nothing. Every process that has the same counts gets the same quotas. */
plimsoll_code plimsoll_router_route(plimsoll_router* router,
                                    const int32_t* counts,
                                    const int32_t* active_tokens,
                                    plimsoll_routing* routing);
/* Deals the quotas of one source rank out to its tokens, those that were counted.
 *   topk_ids     [num_tokens, top_k], logical, -1 for none
 *   physical_ids [num_tokens, top_k], filled: the slot that serves each choice, -1 for none
 *   shared_ranks [num_tokens, num_shared_experts], filled: the rank of each shared expert, -1 for a
 *                token without any expert; NULL where there is none */
plimsoll_code plimsoll_router_assign(plimsoll_router* router,
                                     int32_t source,
                                     const int32_t* topk_ids,
                                     int32_t num_tokens,
                                     int32_t top_k,
                                     int32_t* physical_ids,
                                     int32_t* shared_ranks);
/* By SGLang's waterfill only the tokens know where their shared experts go: routing leaves these at
 * home. This enters what assign wrote for a source rank, shared_ranks [num_tokens], and fills
 * routing again. */
plimsoll_code plimsoll_router_enter_shared_ranks(plimsoll_router* router,
                                                 int32_t source,
                                                 const int32_t* shared_ranks,
                                                 int32_t num_tokens,
                                                 plimsoll_routing* routing);
void plimsoll_router_free(plimsoll_router* router);

#ifdef __cplusplus
}
#endif

#endif /* PLIMSOLL_PLIMSOLL_H_ */
