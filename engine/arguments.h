// From a kernel's declared arguments to the words of its struct.
#pragma once

#include "engine/plan.h"

namespace liger {

// Where a tensor's pointer is found at launch. -1 for a name that is no tensor of the op.
int slot_of(const Op& op, std::string_view name);
int slot_count(const Op& op);

// The words of the kernel struct and which of them are pointers.
Launch launch_of(const KernelOf& kernel, const Call& call, const Knobs& knobs);

// Where the arguments stand in the kernel's struct, as its units assert it.
std::string layout_of(const KernelOf& kernel);

// Constants and knobs: the whole Spec of one candidate.
Spec full_spec(const KernelOf& kernel, const Call& call, const Knobs& knobs);

// What is compiled for one candidate.
Unit unit_of(const KernelOf& kernel, const Call& call, const Knobs& knobs);

// Empty candidates stand for one without knobs.
std::vector<Knobs> candidates_of(const KernelOf& kernel, const Call& call);

std::string text_of(const Knobs& knobs);  // threads=128,rows=2

}  // namespace liger
