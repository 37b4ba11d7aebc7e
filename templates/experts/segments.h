// Rows in the order of their experts, cut at each `Rows`-th row and where an expert ends, so that a
// block has at most so many, all of one expert, however uneven the experts are. Segment s of expert
// e has rows of the (s - e)-th stretch of `Rows`; each step to the next segment is one to the next
// stretch, the next expert or both, so ceil(rows / Rows) + experts + 1 numbers are enough. Some of
// them are empty. Rows of nobody come last, as those of one expert more.
#pragma once
#include "device/target.h"

namespace liger {

struct Segment {
  long long expert;
  long long begin;
  long long end;  // `begin` or less: it is empty
};

LIGER_DEVICE long long start_of_expert(const int* ends, long long expert) {
  return expert == 0 ? 0 : ends[expert - 1];
}

template <int Rows>
LIGER_DEVICE long long first_segment(const int* ends, long long expert) {
  return start_of_expert(ends, expert) / Rows + expert;
}

template <int Rows>
LIGER_DEVICE Segment segment_of(const int* ends, long long num_experts, long long rows,
                                long long segment) {
  long long expert = 0;  // the last one whose first segment is not behind this one
  long long behind = num_experts + 1;
  while (behind - expert > 1) {
    const long long middle = expert + (behind - expert) / 2;
    if (first_segment<Rows>(ends, middle) <= segment) {
      expert = middle;
    } else {
      behind = middle;
    }
  }
  const long long start = start_of_expert(ends, expert);
  const long long end = expert < num_experts ? ends[expert] : rows;
  const long long stretch = (segment - expert) * Rows;
  return {expert, start > stretch ? start : stretch, end < stretch + Rows ? end : stretch + Rows};
}

}  // namespace liger
