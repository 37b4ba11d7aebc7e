// Element types, as the host side names them. The spellings equal those of
// templates/device/dtype.h.
#pragma once

#include <cstdint>
#include <string_view>

namespace liger {

enum class Dtype : uint8_t { f32, f64, bf16, f16, i64, i32, i8, u8, boolean };

std::string_view name_of(Dtype dtype);
int size_bytes(Dtype dtype);
bool is_float(Dtype dtype);

}  // namespace liger
