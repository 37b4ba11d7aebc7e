// What a kernel found wrong with its data. The first thread to find something takes the record,
// fills it and only then publishes it, so the host never reads half of one.
#pragma once
#include "device/target.h"

namespace liger {

struct FaultRecord {
  static constexpr long long empty = 0;
  static constexpr long long taken = 1;
  static constexpr long long published = 2;

  long long state;
  long long row;
  long long value;
  long long limit;
};

LIGER_DEVICE void record_fault(FaultRecord* fault, long long row, long long value,
                               long long limit) {
  if (!take(&fault->state, FaultRecord::empty, FaultRecord::taken)) return;
  fault->row = row;
  fault->value = value;
  fault->limit = limit;
  publish(&fault->state, FaultRecord::published);
}

}  // namespace liger
