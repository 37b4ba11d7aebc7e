// Which rows a block, or a cluster of blocks, can hold on the chip while it works on them, and how
// many threads take one: knobs of kernels that use templates/device/resident_row.h.
#pragma once

#include "engine/op.h"

namespace liger {

struct ResidentRows {
  Place place;
  int64_t size;  // elements of a row
  int64_t element_bytes;
  bool shifted;   // rows start anywhere
  bool may_keep;  // the kernel has registers to spare for some of the row
};

// {threads, rows, cluster, kept}; empty: the row is short, or so long that a multiprocessor would
// be left with one block, which has nothing to do while it waits.
std::vector<Knobs> resident_row_candidates(const ResidentRows& rows);

// Shared memory that the launch of a block brings.
int resident_row_shared_bytes(const ResidentRows& rows, const Knobs& knobs);

}  // namespace liger
