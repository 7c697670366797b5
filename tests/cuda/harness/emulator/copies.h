// Asynchronous copies to shared memory (cp.async). A copy reads at once, and writes only when its thread waits for its
// group: a kernel that does not wait reads what was there before.
#pragma once

#include <cstdint>
#include <cstring>

#include "mma.h"

namespace emulator {

struct Copy {
  uint32_t* to;
  uint32_t words[4];
  int count;
};

void check_copy(const void* to, const void* from, int size, int given);
void queue_copy(const Copy& copy);
bool take_copy(int left, Copy& due);  // the next one that `wait_for_copies` has to write
void commit_copies();
void forget_copies();  // of all threads

// `size` bytes, 4 or 16: the first `given` of them from `from`, then zeros. Reads and writes are the caller's, for who
// observes them.
inline void copy_async(void* to, const void* from, int size, int given) {
  check_copy(to, from, size, given);
  Copy copy{static_cast<uint32_t*>(to), {}, size / 4};
  if (given == 16) {
    const Bytes16 all = *static_cast<const Bytes16*>(from);
    std::memcpy(copy.words, &all, 16);
  } else {
    for (int i = 0; i < given / 4; i++) copy.words[i] = static_cast<const uint32_t*>(from)[i];
  }
  queue_copy(copy);
}

// Until at most `left` of the latest groups are under way.
inline void wait_for_copies(int left) {
  for (Copy copy; take_copy(left, copy);) {
    Bytes16 all;
    std::memcpy(&all, copy.words, 16);
    if (copy.count == 4) *reinterpret_cast<Bytes16*>(copy.to) = all;
    else *copy.to = copy.words[0];
  }
}

}  // namespace emulator
