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
  long long blamed;
  long long check;
  long long place;
  long long value;
  long long limit;
};

// A member of a kernel that checks the values of an input. Where the record is, and in the host's
// own words, handed back to it with the record, which op and which input that is. Where the values
// were picked out of the input: from which places of it.
struct InputFault {
  FaultRecord* record;
  long long blamed;
  long long check;
  const long long* places;  // null: all are there
};

// The value at `place`, counted from the first that the kernel was given, is none of 0 to limit
// - 1.
LIGER_DEVICE void record_fault(const InputFault& fault, long long place, long long value,
                               long long limit) {
  FaultRecord* const record = fault.record;
  if (!take(&record->state, FaultRecord::empty, FaultRecord::taken)) return;
  record->blamed = fault.blamed;
  record->check = fault.check;
  record->place = fault.places == nullptr ? place : fault.places[place];
  record->value = value;
  record->limit = limit;
  publish(&record->state, FaultRecord::published);
}

}  // namespace liger

// A field of the record stands where the host reads it.
#define LIGER_FAULT_FIELD(FIELD, OFFSET)                            \
  static_assert(LIGER_STANDS_AT(liger::FaultRecord, FIELD, OFFSET), \
                "the host has a fault record with another place for " #FIELD);
#define LIGER_FAULT_BYTES(BYTES)                       \
  static_assert(sizeof(liger::FaultRecord) == (BYTES), \
                "the host has a fault record of another size");
