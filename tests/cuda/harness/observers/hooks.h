// What GCC's -fsanitize=thread calls at each access to memory, in place of its library: `accessed` of who includes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../emulator/fiber.h"
#include "../emulator/machine.h"

// Whether an address is no memory of a kernel's: a thread's own stack, or what the emulator says of its place.
static bool is_private(uintptr_t address) {
  const auto machine = uintptr_t(&emulator::machine);
  const bool place = address >= machine && address < machine + sizeof(emulator::Machine);
  return place || emulator::stacks.contains(reinterpret_cast<void*>(address));
}

static void accessed(const void* address, size_t size, bool write, const void* place);

#define FASTSSM_HOOK(name, size, write) \
  void __tsan_##name(void* p) { accessed(p, size, write, __builtin_return_address(0)); }
#define FASTSSM_HOOKS(size)                     \
  FASTSSM_HOOK(read##size, size, false)         \
  FASTSSM_HOOK(write##size, size, true)         \
  FASTSSM_HOOK(unaligned_read##size, size, false) \
  FASTSSM_HOOK(unaligned_write##size, size, true)

extern "C" {
FASTSSM_HOOKS(1)
FASTSSM_HOOKS(2)
FASTSSM_HOOKS(4)
FASTSSM_HOOKS(8)
FASTSSM_HOOKS(16)
void __tsan_read_range(void* p, size_t size) { accessed(p, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t size) { accessed(p, size, true, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
