// Hashes of units' sources, remembered by what the units are made of. The text of one, some 45 KB,
// is what a call with a new shape would spend its time on.
#pragma once

#include <string_view>

#include "base/hash.h"
#include "runtime/spec.h"

namespace liger {

// hash128 of make_unit(template_file, kernel, spec).expanded. Thread safe. Raises as make_unit.
Hash128 source_hash(std::string_view template_file, std::string_view kernel, const Spec& spec);

}  // namespace liger
