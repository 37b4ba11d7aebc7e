// Which knobs a kernel of a call gets: the kernel as the tuner (autotune/) sees it.
#pragma once

#include <string>

#include "engine/arguments.h"

namespace liger {

// Whether a search can pay: a GPU is through with a few hundred kilobytes before it is through with
// a launch. Such calls take the first candidate.
bool worth_measuring(const Call& call);

// What is compiled but for the knobs, as a hash: a field of the key of a tune record.
std::string family_of(const KernelOf& kernel, const Call& call);

struct ChosenKnobs {
  Knobs knobs;
  bool provisional = false;  // see Choice
};

// Thread safe. As choose_candidate (autotune/choice.h).
ChosenKnobs choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                         bool may_measure);

}  // namespace liger
