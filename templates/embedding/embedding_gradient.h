// dweight[v] = sum of dy[t] over the tokens t whose id is v: no atomics, and each row of dweight is
// written once, zeros too.
//
// Tokens are sorted by their ids in lists of so many that a block sorts one on the chip, ties in
// the order of the tokens. A block of the second kernel owns some rows of the weight, finds their
// runs of tokens in every list and adds them, list after list. A long run is added by the block
// that has sorted it, so that one id in every place is the work of as many blocks as there are
// lists. On the host there is one list.
#pragma once
#include "device/sort.h"
#include "device/weight_gradient.h"

namespace liger {

// A token's id and, in the low bits, its place: in the list, or among all tokens on the host. Wide
// where the ids need it.
template <bool Wide>
struct TokenKey {
  using Type = unsigned int;
};
template <>
struct TokenKey<true> {
  using Type = unsigned long long;
};

template <bool Wide, int ListTokens>
struct TokenKeys {
  using Key = typename TokenKey<Wide>::Type;
  static constexpr Key nobody = static_cast<Key>(-1);  // of a token that counts nothing: the last
  static constexpr int places = ListTokens;            // of a list
  static constexpr Key first_bit_of_id =
      on_host ? static_cast<Key>(1) << (Wide ? 32 : 10) : static_cast<Key>(ListTokens);

  static LIGER_DEVICE Key of(long long id, long long place) {
    return static_cast<Key>(id) * first_bit_of_id + static_cast<Key>(place);
  }
  static LIGER_DEVICE long long id(Key key) {
    return static_cast<long long>(key / first_bit_of_id);
  }
  static LIGER_DEVICE long long place(Key key) {
    return static_cast<long long>(key % first_bit_of_id);
  }
  // The first place after those that have the id of `keys[begin]`.
  template <class Place>
  static LIGER_DEVICE Place end_of_run(const Key* keys, Place begin, Place end) {
    const long long of_run = id(keys[begin]);
    if (begin + 1 >= end || id(keys[begin + 1]) != of_run) return begin + 1;
    return lower_bound(keys, begin + 1, end, of(of_run + 1, 0));
  }
};

struct EmbeddingSortSpec {
  Dtype index;
  Dtype dy;
  bool wide;
  int list_tokens;  // of a list, on a GPU
  int long_run;     // tokens of a run that is added here
  int width;
  int align_bytes;
  int threads;
};

template <EmbeddingSortSpec S>
struct EmbeddingSort {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static_assert(on_host || S.threads == S.list_tokens, "a thread has one token");
  using A = Arithmetic<S.dy>;
  using Keys = TokenKeys<S.wide, S.list_tokens>;
  using Key = typename Keys::Key;

  const Type<S.index>* indices;
  const Type<S.dy>* dy;
  Key* keys;
  Key* spare_keys;  // as many, on the host
  A* run_sums;      // one for each `long_run` places of a list
  long long tokens;
  long long weight_rows;
  long long padding_idx;
  long long dy_stride;

  LIGER_DEVICE void operator()(long long list) const {
    if constexpr (on_host) {
      sort_all();
    } else {
      const long long token = list * S.list_tokens + thread_index();
      Key key = Keys::nobody;
      if (token < tokens && counts(indices[token])) key = Keys::of(indices[token], thread_index());
      key = sorted_across_threads<S.list_tokens>(key);
      keys[token] = key;
      add_long_runs(list, key);
    }
  }

 private:
  LIGER_DEVICE bool counts(long long id) const {
    return id >= 0 && id < weight_rows && id != padding_idx;
  }

  // By one digit of the id after another, from the lowest on.
  LIGER_DEVICE void sort_all() const {
    long long count = 0;
    for (long long token = 0; token < tokens; ++token) {
      if (counts(indices[token])) keys[count++] = Keys::of(indices[token], token);
    }
    Key* from = keys;
    Key* to = spare_keys;
    for (long long digit = 1; digit < weight_rows; digit *= 256) {
      long long ends[257] = {};
      const auto digit_of = [digit](Key key) { return Keys::id(key) / digit % 256; };
      for (long long i = 0; i < count; ++i) ++ends[digit_of(from[i]) + 1];
      for (int value = 0; value < 256; ++value) ends[value + 1] += ends[value];
      for (long long i = 0; i < count; ++i) to[ends[digit_of(from[i])]++] = from[i];
      Key* const sorted = to;
      to = from;
      from = sorted;
    }
    for (long long i = 0; i < count; ++i) keys[i] = from[i];
    for (long long i = count; i < tokens; ++i) keys[i] = Keys::nobody;
  }

  static constexpr int packs = (S.width + pack_size - 1) / pack_size;
  static constexpr int lanes =
      power_of_two_from(packs) < S.threads ? power_of_two_from(packs) : S.threads;
  static constexpr int most_teams = S.threads / lanes / (S.wide && lanes < S.threads ? 2 : 1);
  static constexpr int teams = most_teams < S.long_run ? most_teams : S.long_run;

  // Two long runs never begin in the same `long_run` places.
  LIGER_DEVICE void add_long_runs(long long list, Key key) const {
    constexpr int most_runs = S.list_tokens / S.long_run;
    LIGER_SHARED Key sorted[S.list_tokens];
    LIGER_SHARED int begins[most_runs];
    const int place = thread_index();
    sorted[place] = key;
    if (place < most_runs) begins[place] = -1;
    barrier();
    if (key != Keys::nobody && place + S.long_run <= S.list_tokens &&
        (place == 0 || Keys::id(sorted[place - 1]) != Keys::id(key)) &&
        Keys::id(sorted[place + S.long_run - 1]) == Keys::id(key)) {
      begins[place / S.long_run] = place;
    }
    barrier();
    LIGER_UNROLL_BY(1) for (int run = 0; run < most_runs; ++run) {
      if (begins[run] >= 0) add_run(list, sorted, begins[run], list * most_runs + run);
    }
  }

  // Each team of `lanes` threads adds every `teams`th row, and then the teams meet in order.
  LIGER_DEVICE void add_run(long long list, const Key* sorted, int begin, long long run) const {
    LIGER_SHARED Pack<A> sums[teams * lanes];
    const int lane = thread_index() % lanes;
    const int team = thread_index() / lanes;
    const int end = Keys::end_of_run(sorted, begin, S.list_tokens);
    LIGER_UNROLL_BY(1) for (int first = 0; first < packs; first += lanes) {
      const int pack = first + lane;
      Pack<A> sum = filled(A(0));
      if (pack < packs && team < teams) {
        LIGER_UNROLL_BY(4) for (int i = begin + team; i < end; i += teams) {
          const long long token = list * S.list_tokens + Keys::place(sorted[i]);
          sum = sum + load_pack<S.width, S.align_bytes>(dy + token * dy_stride, pack);
        }
        sums[team * lanes + lane] = sum;
      }
      barrier();
      if (pack < packs && team == 0) {
        LIGER_UNROLL_BY(1) for (int other = 1; other < teams; ++other) {
          sum = sum + sums[other * lanes + lane];
        }
        liger::store<16>(run_sums + run * padded(S.width) + pack * pack_size, sum);
      }
      barrier();
    }
  }
};

struct EmbeddingGradientSpec {
  Dtype dy;
  bool wide;
  int list_tokens;
  int long_run;
  int width;
  int align_bytes;
  int threads;  // tuned; of one row
  int rows;     // tuned; that a block takes at once
};

// Tokens of one id that are neighbours in a list.
struct alignas(16) TokenRun {
  int place;  // of the first one's key, among those of all lists
  int length;
  int token;  // the first one
};

template <EmbeddingGradientSpec S>
struct EmbeddingGradient {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.dy>;
  using A = Arithmetic<S.dy>;
  using Row = RowOf<S.width, S.threads, S.rows>;
  using Keys = TokenKeys<S.wide, S.list_tokens>;
  using Key = typename Keys::Key;

  const T* dy;
  const Key* keys;
  const A* run_sums;
  T* dweight;
  long long tokens;
  long long weight_rows;
  long long rows_of_block;  // up to 32
  long long dy_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const long long first = block * rows_of_block;
    const long long rest = weight_rows - first;
    const int count = static_cast<int>(rest < rows_of_block ? rest : rows_of_block);
    if constexpr (on_host) {
      rows_in_order(first, count);
    } else {
      rows_of_runs(first, count);
    }
  }

 private:
  LIGER_DEVICE void rows_in_order(long long first, int count) const {
    long long place = lower_bound(keys, 0LL, tokens, Keys::of(first, 0));
    for (long long row = first; row < first + count; ++row) {
      const long long begin = place;
      while (place < tokens && Keys::id(keys[place]) == row) ++place;
      add_in_order(dweight + row * S.width, begin, place);
    }
  }

  // Some packs at a time, so that rows of dy are read in pieces of some length.
  LIGER_DEVICE void add_in_order(T* to, long long begin, long long end) const {
    constexpr int packs = (S.width + pack_size - 1) / pack_size;
    constexpr int piece = 16;
    for (int first = 0; first < packs; first += piece) {
      const int count = packs - first < piece ? packs - first : piece;
      Pack<A> sums[piece] = {};
      for (long long i = begin; i < end; ++i) {
        const T* const row = dy + Keys::place(keys[i]) * dy_stride;
        for (int p = 0; p < count; ++p) {
          sums[p] = sums[p] + load_pack<S.width, S.align_bytes>(row, first + p);
        }
      }
      for (int p = 0; p < count; ++p) {
        store_pack<S.width, S.align_bytes>(to, first + p, sums[p]);
      }
    }
  }

  // What the block's threads find of its rows. In shared memory of the launch: places for a run of
  // each row in each list, by rows and then by lists; which rows a list has; where it has them.
  struct Found {
    TokenRun* runs;
    unsigned int* rows_of_list;
    int* begins;
  };

  LIGER_DEVICE void rows_of_runs(long long first, int count) const {
    const int lists = static_cast<int>((tokens + S.list_tokens - 1) / S.list_tokens);
    TokenRun* const runs = reinterpret_cast<TokenRun*>(shared_of_launch());
    auto* const rows_of_list = reinterpret_cast<unsigned int*>(runs + lists * rows_of_block);
    const Found found = {runs, rows_of_list, reinterpret_cast<int*>(rows_of_list + lists)};
    LIGER_SHARED int any;
    LIGER_SHARED int ends[32];  // of each row's runs
    if (thread_index() == 0) any = 0;
    barrier();
    LIGER_UNROLL_BY(1) for (int list = thread_index(); list < lists; list += block_threads) {
      if (look_into(list, first, count, found)) any = 1;
    }
    barrier();
    if (any) {
      put_in_order(first, count, lists, found, ends);
      barrier();
    }
    const int thread = S.rows == 1 ? thread_index() : thread_index() % S.threads;
    LIGER_UNROLL_BY(1)
    for (int row = S.rows == 1 ? 0 : thread_index() / S.threads; row < count; row += S.rows) {
      const int begin = any && row > 0 ? ends[row - 1] : 0;
      const int end = any ? ends[row] : 0;
      Row::each(thread, [&](int, int pack) {
        store_pack<S.width, S.align_bytes>(dweight + (first + row) * S.width, pack,
                                           sum_of(runs, begin, end, pack));
      });
    }
  }

  // f(row, begin, end) for each run that a list has of the block's rows, from `place` on.
  template <class F>
  LIGER_DEVICE void each_run(int list, int place, long long first, int count, F&& f) const {
    const Key* const of_list = keys + static_cast<long long>(list) * S.list_tokens;
    LIGER_UNROLL_BY(1) for (int run = 0; run < count && place < S.list_tokens; ++run) {
      const long long row = Keys::id(of_list[place]) - first;
      if (row < 0 || row >= count) return;
      const int end = Keys::end_of_run(of_list, place, S.list_tokens);
      f(static_cast<int>(row), place, end);
      place = end;
    }
  }

  LIGER_DEVICE bool look_into(int list, long long first, int count, const Found& found) const {
    const Key* const of_list = keys + static_cast<long long>(list) * S.list_tokens;
    const int begin = lower_bound(of_list, 0, S.list_tokens, Keys::of(first, 0));
    unsigned int rows = 0;
    each_run(list, begin, first, count, [&](int row, int, int) { rows |= 1u << row; });
    found.begins[list] = begin;
    found.rows_of_list[list] = rows;
    return rows != 0;
  }

  LIGER_DEVICE void put_in_order(long long first, int count, int lists, const Found& found,
                                 int* ends) const {
    if (thread_index() < count)
      ends[thread_index()] = runs_before(thread_index() + 1, lists, found);
    LIGER_UNROLL_BY(1) for (int list = thread_index(); list < lists; list += block_threads) {
      if (found.rows_of_list[list] == 0) continue;
      each_run(list, found.begins[list], first, count, [&](int row, int begin, int end) {
        int rank = runs_before(row, lists, found);
        for (int other = 0; other < list; ++other) rank += found.rows_of_list[other] >> row & 1;
        const long long place = static_cast<long long>(list) * S.list_tokens + begin;
        found.runs[rank] = {static_cast<int>(place), end - begin, token_at(place)};
      });
    }
  }

  // Those of the rows below `row`.
  static LIGER_DEVICE int runs_before(int row, int lists, const Found& found) {
    const unsigned int below = row < 32 ? (1u << row) - 1 : ~0u;
    int runs = 0;
    LIGER_UNROLL_BY(4) for (int list = 0; list < lists; ++list) {
      runs += bits_set(found.rows_of_list[list] & below);
    }
    return runs;
  }

  // Of the key at that place. The bound is for who measures this kernel on keys that nobody made.
  LIGER_DEVICE int token_at(long long place) const {
    const long long token = place / S.list_tokens * S.list_tokens + Keys::place(keys[place]);
    return static_cast<int>(token < tokens ? token : tokens - 1);
  }

  // The first tokens of four runs are on their way at once.
  LIGER_DEVICE Pack<A> sum_of(const TokenRun* runs, int begin, int end, int pack) const {
    Pack<A> sum = filled(A(0));
    LIGER_UNROLL_BY(1) for (int first = begin; first < end; first += 4) {
      RawPack<T> of_run[4] = {};
      LIGER_UNROLL for (int i = 0; i < 4; ++i) {
        if (first + i < end && runs[first + i].length < S.long_run) {
          of_run[i] =
              load_raw_pack<S.width, S.align_bytes>(dy + runs[first + i].token * dy_stride, pack);
        }
      }
      LIGER_UNROLL for (int i = 0; i < 4; ++i) sum = sum + widened(of_run[i]);
      LIGER_UNROLL_BY(1) for (int i = first; i < first + 4 && i < end; ++i) {
        if (runs[i].length > 1) sum = sum + rest_of(runs[i], pack);
      }
    }
    return sum;
  }

  LIGER_DEVICE Pack<A> rest_of(const TokenRun& run, int pack) const {
    if (run.length >= S.long_run) {
      return load<16>(run_sums + run.place / S.long_run * padded(S.width) + pack * pack_size);
    }
    Pack<A> sum = filled(A(0));
    LIGER_UNROLL_BY(4) for (int i = 1; i < run.length; ++i) {
      sum = sum + load_pack<S.width, S.align_bytes>(dy + token_at(run.place + i) * dy_stride, pack);
    }
    return sum;
  }
};

}  // namespace liger
