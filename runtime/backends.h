// What compiler.cpp and device.cpp choose from; each function lives in the file of its vendor.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "runtime/compile/compiler.h"
#include "runtime/device/device.h"

namespace liger {

// What every compiler says of a unit that it refused: its own words, then the unit.
Error compile_error(const Unit& unit, const Target& target, std::string_view words);

std::unique_ptr<Compiler> make_nvrtc_compiler();
std::unique_ptr<Compiler> make_hiprtc_compiler();
std::unique_ptr<Compiler> make_host_compiler();

// Instead of liger-hiprtc-helper beside the library. For tests, before the first compile.
void set_hiprtc_helper(std::string path);

int cuda_device_count();  // never raises
int hip_device_count();
std::string cuda_problem();  // empty when the driver can be used; never raises
std::string hip_problem();
std::unique_ptr<Device> make_cuda_device(int ordinal);  // the ordinal is below the count
std::unique_ptr<Device> make_hip_device(int ordinal);
std::unique_ptr<Device> make_host_device();

}  // namespace liger
