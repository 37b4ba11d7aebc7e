// What ops with a rotary embedding share in their declarations.
#pragma once

#include "engine/op.h"

namespace liger {

// Raises unless q, k, cos and sin fit one another: [batch, heads, tokens, head size] twice, the
// second optional, and [1 or batch, tokens, rotary size] twice.
void check_rotary(const Call& call, std::string_view q, std::string_view k);

// Arguments for the strides of batch, head and token of an input or an output, for the member
// `HeadStrides MEMBER_strides`. Of one that is absent they mean nothing.
void add_head_strides(std::vector<Argument>& arguments, const std::string& member,
                      const std::string& tensor);
// Arguments for the strides of batch and token of cos, then of sin.
void add_angle_strides(std::vector<Argument>& arguments);

}  // namespace liger
