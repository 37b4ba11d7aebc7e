// Which rows a block, or a cluster of blocks, can hold on the chip while it works on them, and how
// many threads take one: knobs of kernels that use templates/device/resident_row.h.
#pragma once

#include <string_view>

#include "engine/op.h"

namespace liger {

struct ResidentRows {
  Place place;
  int64_t size;  // elements of a row
  int64_t element_bytes;
  bool shifted;        // rows start anywhere
  bool may_keep;       // the kernel has registers to spare for packs of the row
  int64_t arrays = 1;  // rows of that length that are held at once
};

// {threads, rows, cluster, kept}; empty: the row is short, or so long that a multiprocessor would
// be left with one block, which has nothing to do while it waits.
std::vector<Knobs> resident_row_candidates(const ResidentRows& rows);

// Shared memory that the launch of a block brings.
int resident_row_shared_bytes(const ResidentRows& rows, const Knobs& knobs);

// Knobs of rows that are read anew.
Knobs of_one_block(int64_t threads, int64_t rows);

// Rows of one length and type that a kernel reads several times: held on the chip where they fit,
// else read anew. For kernels whose spec has `align_bytes`, `held`, `threads`, `rows`, `cluster`
// and `kept`.
class RereadRows {
 public:
  // `read`: inputs. `written`: the output of the same shape, or empty: none, or one of those read.
  RereadRows(const Call& call, std::vector<std::string_view> read, std::string_view written = {},
             bool may_keep = true);

  bool resident() const { return resident_; }
  // What the address of every row is a multiple of, up to 16; 0: rows that are held start anywhere,
  // because their loads are aligned down.
  int64_t align_bytes() const { return resident_ && shape_.shifted ? 0 : align_bytes_; }
  // {threads, rows, cluster, kept}. Rows of fewer threads than 64 share a block.
  std::vector<Knobs> candidates(int64_t fewest_threads = 64) const;
  int64_t blocks(const Knobs& knobs) const;
  int shared_bytes(const Knobs& knobs) const;

 private:
  const Call& call_;
  int64_t rows_;
  int64_t align_bytes_;
  ResidentRows shape_;
  bool resident_;
};

// The kernel with what RereadRows says of it: candidates, blocks and shared memory.
KernelOf reread_kernel(KernelOf kernel, std::vector<std::string_view> read,
                       std::string_view written, int64_t fewest_threads, bool may_keep = true);

}  // namespace liger
