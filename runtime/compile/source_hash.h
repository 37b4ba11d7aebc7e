// Hashes of units' sources, remembered by what the units are made of. The text of one, some 45 KB,
// is what a call with a new shape would spend its time on.
#pragma once

#include "base/hash.h"
#include "runtime/compile/spec.h"
#include "runtime/compile/unit.h"

namespace liger {

// hash128 of make_unit(made_from, spec).expanded. Thread safe. Raises as make_unit.
Hash128 source_hash(const KernelTemplate& made_from, const Spec& spec);

}  // namespace liger
