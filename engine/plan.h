// What a call comes to: shapes to allocate and launches to make. Made once for each new combination
// of shapes, strides, dtypes and scalars; a hit copies argument words and launches.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "base/hash.h"
#include "engine/op.h"
#include "runtime/device/device.h"
#include "runtime/kernels.h"

namespace liger {

struct OutputPlan {
  std::vector<int64_t> sizes;
  Dtype dtype;
  std::vector<int64_t> strides;  // empty: contiguous
};

struct Launch {
  Function* function = nullptr;
  int64_t blocks = 0;
  int threads = 1;       // of a block; on the host, blocks that are worth a thread of their own
  int shared_bytes = 0;  // of a block, beyond what the kernel declares
  std::vector<uint64_t> packed_arguments;  // the kernel struct; pointers are filled in at each call
  struct Pointer {
    uint16_t word;
    uint16_t slot;  // inputs by index, then outputs, then temporaries
  };
  std::vector<Pointer> pointers;
  struct Tiles {
    uint16_t word;
    uint16_t slot;
    TiledMatrix matrix;  // its data are filled in
  };
  std::vector<Tiles> tiles;
};

struct Plan {
  const Op* op = nullptr;
  Device* device = nullptr;
  bool provisional = false;     // not tuned yet: made anew once no compile is in the background
  bool records_faults = false;  // a kernel of it may find something wrong with its data
  uint32_t copies = 0;          // bit i: input i must be made contiguous, and the call planned anew
  std::vector<OutputPlan> outputs;
  std::vector<int64_t> temporary_offsets;  // in one workspace
  int64_t workspace_bytes = 0;
  std::vector<Launch> launches;
};

constexpr int max_slots = 40;
// After all others, for kernels that check values: the fault record, and the op that the user
// called.
constexpr int fault_slot = max_slots;
constexpr int blamed_slot = max_slots + 1;
constexpr int all_slots = max_slots + 2;
constexpr int max_packed_arguments = 64;

// Raises Error(invalid_argument) naming op, argument, value and what is allowed, or
// Error(unsupported).
void check_call(const Call& call);

// Checks the call, tunes and loads what it needs. Raises Error; nothing is launched before it
// returns. While a graph is captured on `stream`, uses only what is loaded and raises Error(device)
// that names liger_jit.warmup otherwise.
std::shared_ptr<const Plan> make_plan(const Call& call, Device& device, Stream stream);

// Pointers by slot, `all_slots` of them. Asynchronous on a GPU. Ops and kernels are those of the
// registry, which lives as long as the process: launches hold their addresses, and so do graphs.
void launch(const Launch& launch, Device& device, void* const* pointers, Stream stream);
void launch(const Plan& plan, void* const* pointers, Stream stream);

// Raises what a kernel has published in the record, if anything, and clears it: in the words of the
// op that the user called, whoever asks.
void raise_fault(Fault& fault);

// The units a call needs on a target, one for each kernel and candidate; no device is needed.
struct PlannedUnit {
  Unit unit;
  Knobs knobs;
  bool first = true;  // of the candidates
};
// `known`, if given: hashes of sources; what is in it is left out, and what is returned is added.
using KnownUnits = std::unordered_set<Hash128, Hash128Hasher>;
std::vector<PlannedUnit> units_of(const Call& call, bool all_candidates,
                                  KnownUnits* known = nullptr);

// Sizes of a call's outputs, for callers that have no device.
std::vector<OutputPlan> plan_outputs(const Call& call);

// Which inputs a kernel cannot read where they are.
uint32_t copies_needed(const Call& call);

}  // namespace liger
