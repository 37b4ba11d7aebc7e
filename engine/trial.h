// How much a call moves, and candidates of its kernels launched on tensors like its own.
#pragma once

#include <memory>
#include <vector>

#include "autotune/tunable.h"
#include "engine/op.h"

namespace liger {

int64_t bytes_of_call(const Call& call);  // of all tensors
int64_t rows_of_call(const Call& call);   // of its first tensor; at least 1

// A call as large as this one, or as large as what is worth to measure. Null where there is not
// enough memory or nothing to launch. `loaded`: by candidate, null for those that are not launched.
std::unique_ptr<Trial> trial_of(const KernelOf& kernel, const Call& call,
                                const std::vector<Knobs>& candidates,
                                const std::vector<const Kernel*>& loaded, Device& device,
                                Stream stream);

}  // namespace liger
