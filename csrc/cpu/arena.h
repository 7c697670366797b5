// Memory that a thread keeps from call to call: new pages cost more than the arithmetic on them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastssm::cpu {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  // Frees all that was taken. Where the last call needed several blocks, one block replaces them.
  void reset() {
    const size_t total = taken_;
    taken_ = used_ = 0;
    if (blocks_.size() < 2 && capacity_ <= kKept) return;
    release();
    try {
      if (total <= kKept) grow(total);
    } catch (const std::bad_alloc&) {  // the last call failed for this reason; this one may need less
    }
  }

  // Returns n uninitialised elements, aligned to a cache line.
  template <class T>
  T* take(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + kLine - 1) / kLine * kLine;
    if (used_ + bytes > capacity_) grow(bytes);
    T* out = reinterpret_cast<T*>(blocks_.back() + used_);
    used_ += bytes;
    taken_ += bytes;
    return out;
  }

 private:
  static constexpr size_t kLine = 64, kPage = size_t(1) << 21, kKept = size_t(256) << 20;

  void grow(size_t bytes) {
    const size_t size = std::max<size_t>((bytes + kPage - 1) / kPage, 1) * kPage;
    blocks_.reserve(blocks_.size() + 1);
    void* block = std::aligned_alloc(kPage, size);
    if (!block) throw std::bad_alloc();
#ifdef __linux__
    madvise(block, size, MADV_HUGEPAGE);
#endif
    blocks_.push_back(static_cast<char*>(block));
    capacity_ = size;
    used_ = 0;
  }

  void release() {
    for (char* block : blocks_) std::free(block);
    blocks_.clear();
    capacity_ = 0;
  }

  std::vector<char*> blocks_;
  size_t capacity_ = 0, used_ = 0, taken_ = 0;  // of the last block; taken_ counts them all
};

}  // namespace fastssm::cpu
