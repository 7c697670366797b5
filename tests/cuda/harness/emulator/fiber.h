// A thread of control with a stack of its own, switched by hand on x86-64 and by ucontext elsewhere.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

// Stacks of equal size in one mapping, a page that may not be touched below each.
class Stacks {
 public:
  static constexpr size_t size = 256 << 10;
  ~Stacks();
  unsigned char* stack(unsigned index);
  bool contains(const void* p) const;

 private:
  static constexpr unsigned count = 1024;
  unsigned char* base_ = nullptr;
};
extern Stacks stacks;

struct Fiber {
  unsigned char* stack = nullptr;
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* sanitizer = nullptr;
};

// Make `fiber` start in `entry`, which must not return, on the given stack.
void prepare(Fiber& fiber, unsigned char* stack, void (*entry)());

// Leave the caller for `fiber`; back when it calls `leave`, for good if `last`.
void enter(Fiber& fiber);
void leave(Fiber& fiber, bool last);

// What a fiber does first.
void arrived();

}  // namespace emulator
