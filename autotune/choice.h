// Which candidate a call gets: from a record, from another rank, from a search, or the first.
#pragma once

#include "autotune/tunable.h"

namespace liger {

struct Choice {
  int candidate = 0;
  bool provisional = false;  // the first candidate, until there can be a search
};

// Thread safe: one search at a time, and what is known takes no lock that a search holds. The
// choice for an identity stands for the life of the process, unless it is provisional.
// `may_measure` is false while a graph is captured. While candidates for a GPU are compiled in the
// background nobody waits for them: the choice is provisional. On the host they would be compiled
// by the cores that train, for longer than a short run lasts. Ranks of a process group take the
// pick that one of them proposed first. Never raises for tuning's own troubles: then the first
// candidate that compiles is taken. Raises Error(compile) when none does.
Choice choose_candidate(const Tunable& tunable, bool may_measure);

}  // namespace liger
