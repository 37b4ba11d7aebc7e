#pragma once

#include <string>

namespace liger::torch_bindings {

// The group whose store shares kernels from the next miss on, by torch's name for it; empty: none.
void use_process_group(const std::string& name);

}  // namespace liger::torch_bindings
