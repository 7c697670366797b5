#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

constexpr size_t guard = 4096;

Fiber host;  // where fibers were entered from
const void* host_bottom = nullptr;
size_t host_size = 0;

// AddressSanitizer follows stacks, and must be told of every change.
void before_switch([[maybe_unused]] void** save, [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(save, bottom, size);
#endif
}

void after_switch([[maybe_unused]] void* saved, [[maybe_unused]] const void** bottom, [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, bottom, size);
#endif
}

}  // namespace

#if defined(__x86_64__)
extern "C" void fastssm_emulator_switch(void** save, void* load);
asm(R"(
.text
.type fastssm_emulator_switch,@function
fastssm_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastssm_emulator_switch,.-fastssm_emulator_switch
)");

static void swap(Fiber& from, Fiber& to) { fastssm_emulator_switch(&from.pointer, to.pointer); }
#else
static void swap(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

Stacks stacks;

Stacks::~Stacks() {
  if (base_) munmap(base_, count * (size + guard));
}

unsigned char* Stacks::stack(unsigned index) {
  if (!base_) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, count * (size + guard), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error("the emulator has no memory for the stacks of its threads");
    base_ = static_cast<unsigned char*>(mapped);
    for (unsigned i = 0; i < count; i++) mprotect(base_ + i * (size + guard), guard, PROT_NONE);
  }
  return base_ + index * (size + guard) + guard;
}

bool Stacks::contains(const void* p) const {
  return base_ && p >= base_ && p < base_ + count * (size + guard);
}

void prepare(Fiber& fiber, unsigned char* stack, void (*entry)()) {
  fiber.stack = stack;
  fiber.sanitizer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, Stacks::size);
#endif
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(stack + Stacks::size);
  *--top = nullptr;  // the return address of `entry`, which aligns the stack as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = Stacks::size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
}

void enter(Fiber& fiber) {
  before_switch(&host.sanitizer, fiber.stack, Stacks::size);
  swap(host, fiber);
  after_switch(host.sanitizer, nullptr, nullptr);
}

void arrived() { after_switch(nullptr, &host_bottom, &host_size); }

void leave(Fiber& fiber, bool last) {
  before_switch(last ? nullptr : &fiber.sanitizer, host_bottom, host_size);
  swap(fiber, host);
  after_switch(fiber.sanitizer, nullptr, nullptr);
}

}  // namespace emulator
