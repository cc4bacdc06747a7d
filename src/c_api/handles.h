// What the handles of plimsoll.h stand for.
#pragma once

#include <string>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/plan.h"
#include "plimsoll/plimsoll.h"
#include "plimsoll/route.h"

struct plimsoll_load {
  plimsoll::LoadHistory history;
};

struct plimsoll_placement {
  plimsoll::Placement placement;
};

struct plimsoll_plan {
  plimsoll_placement placement;
  std::vector<plimsoll_certificate> certificates;
  std::vector<std::string> explanations;
  int64_t moved_experts = 0;
};

struct plimsoll_router {
  explicit plimsoll_router(plimsoll::RouteTables made)
      : tables(std::move(made)), workspace(tables), plan(tables) {}

  const plimsoll::RouteTables tables;
  plimsoll::RouteWorkspace workspace;
  plimsoll::RoutePlan plan;
};
