// Where the heads of a tensor [batch, heads, tokens, head size] are in memory.
#pragma once

namespace liger {

struct HeadStrides {
  long long batch;
  long long head;
  long long token;
};

}  // namespace liger
