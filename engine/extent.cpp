#include "engine/extent.h"

#include <cstdio>
#include <cstdlib>

namespace liger {

int64_t Extent::operator[](std::string_view name) const {
  for (const NamedSize& size : sizes_) {
    if (size.name == name) return size.value;
  }
  std::fprintf(stderr, "liger_jit: an example asks for the size %.*s, which its op does not name\n",
               static_cast<int>(name.size()), name.data());
  std::abort();
}

std::vector<ExampleSize> example_sizes(std::vector<ExampleSize> own) {
  std::vector<ExampleSize> sizes = {{"rows", 4096, "all dimensions but the last"},
                                    {"size", 4096, "of the last dimension"},
                                    {"inner", 64, "a third size, if any"}};
  sizes.insert(sizes.end(), own.begin(), own.end());
  return sizes;
}

}  // namespace liger
