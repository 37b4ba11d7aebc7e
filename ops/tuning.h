// Which knobs a kernel of a call gets: from a record, from a search, or the declaration's first.
#pragma once

#include "ops/arguments.h"

namespace liger {

// `may_measure` is false while a graph is captured. Never raises for tuning's own troubles: then
// the first candidate that compiles is taken. Raises Error(compile) when none does.
Knobs choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                   bool may_measure);

}  // namespace liger
