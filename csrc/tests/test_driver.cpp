// The launcher of GPUs against a driver that only records (tests/driver), or against none ("absent").
#include "../cuda/driver.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <stdexcept>

#include "check.h"
#include "driver/fake.h"

namespace {

using fastssm::cuda::launcher;
using fastssm::cuda::load;

struct Parameters {
  int64_t a, b;
};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

bool says(const std::string& sentence, const char* words) {
  if (sentence.find(words) != std::string::npos) return true;
  std::printf("\"%s\" does not say \"%s\"\n", sentence.c_str(), words);
  return false;
}

void test_no_device(Fake& fake) {
  fake.init = 100;
  CHECK(says(error_of([] { load(0, "good"); }), "cuInit failed: words of the driver (CUDA_ERROR_NO_DEVICE)"));
  fake.init = 0;
}

void test_loading(Fake& fake) {
  CHECK(says(error_of([] { launcher(0); }), "no kernels on device 0: they were never loaded"));
  CHECK(says(error_of([] { load(2, "good"); }), "cuDeviceGet(2) failed: words of the driver (CUDA_ERROR_INVALID_DEVICE)"));
  CHECK(says(error_of([] { load(0, "bad"); }), "cuModuleLoadData failed: words of the driver (CUDA_ERROR_NO_BINARY_FOR_GPU)"));
  CHECK(says(error_of([] { launcher(0); }), "no kernels on device 0: they were never loaded"));  // a bad image leaves nothing behind
  CHECK(fake.depth == 0);
}

void test_files(Fake& fake) {
  CHECK(says(fastssm_load_kernels(1, "no such file"), "there is no file no such file"));
  const std::string image = "driver-" + std::to_string(getpid());
  std::ofstream(image) << "bad";
  CHECK(says(fastssm_load_kernels(1, image.c_str()), "cuModuleLoadData failed"));
  std::ofstream(image) << "good 0";
  CHECK(fastssm_load_kernels(0, image.c_str()) == nullptr);
  std::remove(image.c_str());
  load(0, "good again");
  CHECK(fake.images == std::vector<std::string>{"good 0"});
}

void test_asking(Fake& fake) {
  static int asked = 0;
  fastssm_ask_for_kernels([](int device, char* why, size_t size) { asked++, std::snprintf(why, size, "no %d", device); });
  CHECK(says(error_of([] { launcher(1); }), "no kernels on device 1: no 1"));
  fastssm_ask_for_kernels([](int device, char*, size_t) { asked++, load(device, "good 1"); });
  launcher(1), launcher(1), launcher(0);
  CHECK(asked == 2 && fake.images.back() == "good 1");
  fastssm_ask_for_kernels(nullptr);
}

void test_limits() {
  const auto &first = launcher(0).limits(), &second = launcher(1).limits();
  CHECK(first.shared_per_block == 101376 && first.multiprocessors == 100 && first.capability == 86);
  CHECK(second.shared_per_block == 232448 && second.multiprocessors == 101 && second.capability == 90);
}

void test_launches(Fake& fake) {
  int stream = 0;
  for (int device : {0, 1, 0}) launcher(device)("sweep", {{3, 4, 5}, 64, 0}, Parameters{7, device}, &stream);
  CHECK(fake.lookups == 2 && fake.launches.size() == 3 && fake.attributes.empty() && fake.depth == 0);
  for (size_t i = 0; i < 3; i++) {
    const FakeLaunch& l = fake.launches[i];
    const unsigned grid[3] = {3, 4, 5}, block[3] = {64, 1, 1};
    CHECK(l.device == int(i % 2) && l.kernel == "sweep" && l.stream == &stream && l.shared == 0);
    CHECK(!std::memcmp(l.grid, grid, sizeof grid) && !std::memcmp(l.block, block, sizeof block));
    CHECK(l.parameters[0] == 7 && l.parameters[1] == int64_t(i % 2));
  }
}

void test_shared_memory(Fake& fake) {
  const auto launch = [](size_t bytes) { launcher(0)("signs", {{}, 32, bytes}, Parameters{}, nullptr); };
  for (size_t bytes : {1000, 70000, 500, 70000, 90000}) launch(bytes);
  const std::vector<std::pair<std::string, int>> expected = {{"signs", 1000}, {"signs", 70000}, {"signs", 90000}};
  CHECK(fake.attributes == expected);  // only as far as it grows
  CHECK(fake.launches.back().shared == 90000);
  fake.set_attribute = 1;
  const std::string refused = error_of([&] { launch(200000); });
  CHECK(says(refused, "kernel signs (grid 1 x 1 x 1, 32 threads, 200000 bytes of shared memory) failed: "));
  CHECK(fake.launches.back().shared == 90000);
  fake.set_attribute = 0;
  launch(200000);
  CHECK(fake.attributes.back().second == 200000);  // asked for again, since it was refused
}

void test_errors(Fake& fake) {
  const auto launch = [](const char* name) { launcher(0)(name, {{2}, 96}, Parameters{}, nullptr); };
  CHECK(says(error_of([&] { launch("nosuch"); }), "kernel nosuch failed: words of the driver (CUDA_ERROR_NOT_FOUND)"));
  const auto narrow = [] { launcher(1)("signs", {}, int64_t(1), nullptr); };
  CHECK(says(error_of(narrow), "kernel signs takes 16 bytes of parameters, got 8: the kernels and the library are of different"));
  fake.launch = 1;
  CHECK(says(error_of([&] { launch("sweep"); }), "kernel sweep (grid 2 x 1 x 1, 96 threads, 0 bytes of shared memory) failed: "
                                                 "words of the driver (CUDA_ERROR_INVALID_VALUE)"));
  fake.launch = 999;
  CHECK(says(error_of([&] { launch("sweep"); }), "failed: unknown error (999)"));
  fake.launch = 0;
  CHECK(fake.depth == 0);  // also after an error
}

void test_capture(Fake& fake) {
  const auto launch = [](const char* name) { launcher(1)(name, {}, Parameters{}, nullptr); };
  fake.capturing = 1;
  launch("sweep");  // was launched before
  CHECK(says(error_of([&] { launch("signs"); }), "kernel signs is not loaded yet, and its stream is being captured"));
  fake.capturing = 0;
  launch("signs");
}

void test_threads(Fake& fake) {
  const size_t before = fake.launches.size();
  constexpr int kThreads = 2, kLaunches = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++)
    threads.emplace_back([t] {
      for (int i = 0; i < kLaunches; i++) {
        load(i % 2, "good");
        launcher(i % 2)(i % 3 ? "sweep" : "signs", {{}, 32, size_t(300000 + i)}, Parameters{t, i}, nullptr);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(fake.launches.size() == before + kThreads * kLaunches && fake.depth == 0 && fake.images.size() == 2);
  std::vector<int> next(kThreads);
  for (size_t i = before; i < fake.launches.size(); i++) {
    const FakeLaunch& l = fake.launches[i];
    CHECK(l.parameters[1] == next[l.parameters[0]]++ && l.device == l.parameters[1] % 2);
  }
}

int without_driver() {
  if (dlopen("libcuda.so.1", RTLD_LAZY)) return skipped;
  CHECK(says(error_of([] { load(0, "good"); }), "the NVIDIA driver cannot be opened (libcuda.so.1: cannot open"));
  return CHECKED();
}

}  // namespace

int main(int count, char**) {
  if (count > 1) return without_driver();
  void* library = dlopen("libcuda.so.1", RTLD_LAZY);
  const auto find = library ? reinterpret_cast<Fake* (*)()>(dlsym(library, "fake_driver")) : nullptr;
  CHECK(find != nullptr);
  if (!find) return CHECKED();
  Fake& fake = *find();
  test_no_device(fake);
  test_loading(fake);
  test_files(fake);
  test_asking(fake);
  test_limits();
  test_launches(fake);
  test_shared_memory(fake);
  test_errors(fake);
  test_capture(fake);
  test_threads(fake);
  return CHECKED();
}
