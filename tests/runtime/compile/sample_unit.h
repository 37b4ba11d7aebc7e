// A unit without templates that each of the three compilers takes, and a cache folder for this
// process.
#pragma once

#include <string>

#include "runtime/compile/unit.h"

namespace liger {

// y[i] = factor * x[i], one block for each element. Another factor is another unit.
struct ScaleArguments {
  const float* x;
  float* y;
};
Unit scale_unit(int factor);

Unit broken_unit();

// The private cache folder that LIGER_JIT_CACHE names since before main().
const std::string& test_cache_folder();

// A read-only folder of this process, below the other; empty unless a test fills it.
std::string test_site_folder();

}  // namespace liger
