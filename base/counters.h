// What happened in this process. Tests assert on these; `liger_jit.stats()` shows them.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger {

// Each counter, in the order in which people see them.
#define LIGER_COUNTERS(COUNTER)                                                           \
  COUNTER(compiled)             /* units given to a compiler */                           \
  COUNTER(hit_memory)           /* plan misses answered by the process's kernel table */  \
  COUNTER(hit_disk)             /* entries taken from the user's folder */                \
  COUNTER(hit_readonly)         /* entries taken from a read-only layer */                \
  COUNTER(miss_disk)            /* keys found in no folder */                             \
  COUNTER(hit_group)            /* entries taken from another rank */                     \
  COUNTER(hit_remote)           /* entries taken from the server */                       \
  COUNTER(miss_remote)          /* keys that the server did not have */                   \
  COUNTER(remote_rejected)      /* values of the server that failed verification */       \
  COUNTER(remote_errors)        /* requests that failed: no answer, or a refusal */       \
  COUNTER(remote_skipped)       /* requests not made, because one had failed before */    \
  COUNTER(remote_published)     /* entries that the server took */                        \
  COUNTER(corrupt)              /* entries that failed verification */                    \
  COUNTER(published)            /* entries written */                                     \
  COUNTER(publish_failed)       /* entries that could not be written */                   \
  COUNTER(pruned)               /* files removed to keep the folder below its size */     \
  COUNTER(tuned)                /* tune keys searched */                                  \
  COUNTER(tune_hit)             /* tune keys answered by a record */                      \
  COUNTER(pick_group)           /* tune keys answered by another rank's pick */           \
  COUNTER(group_trouble)        /* calls of the process group's store that failed */      \
  COUNTER(wait_expired)         /* waits for another process that ended in vain */        \
  COUNTER(plans)                /* calls that met a new shape */                          \
  COUNTER(units_expanded)       /* sources put together: none for a new number of rows */ \
  COUNTER(launches)             /* kernels launched outside tuning */                     \
  COUNTER(compile_microseconds) /* in all compiling threads together */                   \
  COUNTER(tune_microseconds)    /* with the waits for its compiles */                     \
  COUNTER(load_microseconds)    /* bringing kernels onto devices */                       \
  COUNTER(remote_microseconds)  /* waiting for the server's answers */

struct Counters {
#define LIGER_COUNTER(NAME) std::atomic<uint64_t> NAME{0};
  LIGER_COUNTERS(LIGER_COUNTER)
#undef LIGER_COUNTER
};

Counters& counters();

// Name and value of each.
std::vector<std::pair<std::string, uint64_t>> counter_values();

}  // namespace liger
