// Which knobs a kernel of a call gets: from a record, from a search, or the declaration's first.
#pragma once

#include <string>
#include <vector>

#include "ops/arguments.h"

namespace liger {

// Whether a search can pay: a GPU is through with a few hundred kilobytes before it is through with
// a launch. Such calls take the first candidate.
bool worth_measuring(const Call& call);

// What is compiled but for the knobs, as a hash: a field of the key of a tune record.
std::string family_of(const KernelOf& kernel, const Call& call);

struct Choice {
  Knobs knobs;
  bool provisional = false;  // the first candidate, until there can be a search
};

// `may_measure` is false while a graph is captured. While candidates for a GPU are compiled in the
// background nobody waits for them: the choice is provisional. On the host they would be compiled
// by the cores that train, for longer than a short run lasts. Ranks of a process group take the
// pick that one of them proposed first. Never raises for tuning's own troubles: then the first
// candidate that compiles is taken. Raises Error(compile) when none does.
Choice choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                    bool may_measure);

// What this process uses, by kernel and tune key.
struct Pick {
  std::string kernel;
  std::string key;        // the hash of its tune key
  std::string candidate;  // `threads=128,rows=2`
};
std::vector<Pick> picks_made();

}  // namespace liger
