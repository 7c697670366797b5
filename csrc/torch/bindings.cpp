// The module fastssm._C, and the engine's kernels in the dispatcher: two entries to one engine.
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include "../cpu/kernels/kernels.h"
#include "../maths/activations.h"
#include "functions.h"
#include "guarded_call.h"
#include "narrow.h"

namespace py = pybind11;

namespace fastssm::on_tensors {
namespace {

using Optional = std::optional<at::Tensor>;

// ---- the dispatcher's entry: schemas are declared in Python -------------------------------------------------------

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> objective_kernel(
    const at::Tensor& x, const Optional& columns, const Optional& v, const Optional& seed, at::TensorList tensors,
    const Optional& weight, c10::string_view kind, at::IntArrayRef activations, at::ArrayRef<double> constants,
    at::IntArrayRef flags, int64_t projections, c10::string_view precision, bool variance_reduced, bool mean,
    bool needs_inputs, bool needs_tensors) {
  const Structure structure(std::string(kind), activations.vec(), constants.vec(), flags.vec());
  return objective(structure, {{x, columns, v, seed, projections}, is_bfloat16(std::string(precision))}, tensors,
                   weight, {variance_reduced, mean}, {needs_inputs, needs_tensors});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> denoising_kernel(
    const at::Tensor& x, const Optional& columns, const Optional& v, const Optional& seed, at::TensorList tensors,
    const at::Tensor& target, const Optional& weight, c10::string_view kind, at::IntArrayRef activations,
    at::ArrayRef<double> constants, at::IntArrayRef flags, int64_t projections, c10::string_view precision, bool mean,
    bool needs_inputs, bool needs_tensors) {
  const Structure structure(std::string(kind), activations.vec(), constants.vec(), flags.vec());
  return objective(structure, {{x, columns, v, seed, projections}, is_bfloat16(std::string(precision)), target},
                   tensors, weight, {true, mean}, {needs_inputs, needs_tensors});
}

template <bool EACH>
std::tuple<at::Tensor, at::Tensor, at::Tensor> terms_kernel(const at::Tensor& x, const Optional& columns,
                                                            const Optional& v, const Optional& seed,
                                                            at::TensorList tensors, c10::string_view kind,
                                                            at::IntArrayRef activations, at::ArrayRef<double> constants,
                                                            at::IntArrayRef flags, int64_t projections,
                                                            c10::string_view precision) {
  const Structure structure(std::string(kind), activations.vec(), constants.vec(), flags.vec());
  return terms(structure, {{x, columns, v, seed, projections}, is_bfloat16(std::string(precision))}, tensors, EACH);
}

template <bool EACH>
std::vector<at::Tensor> terms_backward_kernel(const at::Tensor& on_projected, const at::Tensor& on_jacobian,
                                              const at::Tensor& on_score, const at::Tensor& x, const Optional& columns,
                                              const Optional& v, const Optional& seed, at::TensorList tensors,
                                              c10::string_view kind, at::IntArrayRef activations,
                                              at::ArrayRef<double> constants, at::IntArrayRef flags,
                                              int64_t projections, c10::string_view precision, bool needs_inputs,
                                              bool needs_tensors) {
  const Structure structure(std::string(kind), activations.vec(), constants.vec(), flags.vec());
  return terms_backward(structure, on_projected, on_jacobian, on_score,
                        {{x, columns, v, seed, projections}, is_bfloat16(std::string(precision))}, tensors,
                        {needs_inputs, needs_tensors}, EACH);
}

TORCH_LIBRARY_IMPL(fastssm, CPU, library) {
  library.impl("objective", objective_kernel);
  library.impl("denoising", denoising_kernel);
  library.impl("terms", terms_kernel<false>);
  library.impl("terms_each", terms_kernel<true>);
  library.impl("terms_backward", terms_backward_kernel<false>);
  library.impl("terms_each_backward", terms_backward_kernel<true>);
}

// ---- for tests ---------------------------------------------------------------------------------------------------

cpu::Level level_named(const std::string& given) {
  for (cpu::Level level : {cpu::Level::avx512, cpu::Level::avx2, cpu::Level::baseline})
    if (given == cpu::name(level) && cpu::supported(level)) return level;
  TORCH_CHECK(false, "level must be one that this processor has, got ", given, ".");
}

template <class T>
std::vector<at::Tensor> jets(int64_t index, const at::Tensor& z, std::vector<double> constants, int64_t order,
                             cpu::Level level) {
  const int64_t n = cpu::pad(z.numel());
  const std::vector<T> given(constants.begin(), constants.end());
  const auto padded = [&] { return std::vector<T>(n, T(0)); };
  std::vector<T> in = padded(), out[4] = {padded(), padded(), padded(), padded()};
  std::copy_n(z.const_data_ptr<T>(), z.numel(), in.begin());
  cpu::kernels<T>(level).jets(static_cast<int>(index), static_cast<int>(order), n, in.data(), given.data(),
                              out[0].data(), out[1].data(), out[2].data(), out[3].data());
  std::vector<at::Tensor> found;
  for (int64_t i = 0; i <= order; i++) {
    found.push_back(at::empty(z.sizes(), z.options()));
    std::copy_n(out[i].begin(), z.numel(), found.back().data_ptr<T>());
  }
  return found;
}

std::vector<at::Tensor> activation(int64_t index, const at::Tensor& z, std::vector<double> constants, int64_t order,
                                   const std::string& level) {
  TORCH_CHECK(0 <= index && index < activation_count && 1 <= order && order <= 3, "index or order out of range.");
  const at::Tensor given = z.contiguous();
  return given.scalar_type() == at::kDouble ? jets<double>(index, given, constants, order, level_named(level))
                                            : jets<float>(index, given, constants, order, level_named(level));
}

at::Tensor rademacher(int64_t seed, int64_t first_projection, int64_t first_sample, int64_t projections,
                      int64_t samples, int64_t dim, const std::string& level) {
  const at::Tensor out = at::empty({projections, samples, dim}, at::kFloat);
  for (int64_t m = 0; m < projections; m++)
    cpu::kernels<float>(level_named(level))
        .signs(static_cast<uint64_t>(seed), first_sample, samples, first_projection + m, dim,
               out.data_ptr<float>() + m * samples * dim, dim);
  return out;
}

py::dict capability() {
  py::dict out;
  out["level"] = cpu::name(cpu::level());
  out["bf16"] = torch_products::has_bfloat16();
  py::list levels;
  for (cpu::Level level : {cpu::Level::baseline, cpu::Level::avx2, cpu::Level::avx512})
    if (cpu::supported(level)) levels.append(cpu::name(level));
  out["levels"] = levels;
  return out;
}

py::dict build_info() {
  py::dict out;
  out["torch"] = TORCH_VERSION;
  out["python"] = PY_VERSION;
  out["compiler"] = __VERSION__;
  return out;
}

// ---- guarded calls -----------------------------------------------------------------------------------------------

GuardedCall guarded_call(const SharedStructure& structure, int64_t dim, const py::list& modules,
                         const py::list& places, const py::tuple& hooks, const py::tuple& everywhere,
                         const py::list& forwards) {
  std::vector<Guard> guards;
  for (const py::handle each : modules) {
    const auto [reference, kind, attributes, children, parameters] =
        each.cast<std::tuple<py::object, py::object, py::dict, std::vector<uintptr_t>, std::vector<py::object>>>();
    guards.push_back({reference, kind, {}, children, parameters});
    for (const auto& [name, value] : attributes)
      guards.back().attributes.emplace_back(py::reinterpret_borrow<py::object>(name),
                                            py::reinterpret_borrow<py::object>(value));
  }
  std::vector<Place> found;
  for (const py::handle each : places) {
    const auto [module, name] = each.cast<std::pair<size_t, py::object>>();
    TORCH_CHECK(module < guards.size(), "there is no module ", module, ".");
    found.push_back({module, name});
  }
  return {structure, dim, std::move(guards), std::move(found),
          {hooks, everywhere, forwards.cast<std::vector<std::pair<py::object, py::object>>>()}};
}

// Turn torch's exceptions into its Python ones: this module's pybind11 is not torch's, and has none of its translators.
void translate(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const python_error&) {  // say of a hook of a saved tensor
    torch::translate_exception_to_python(thrown);
  } catch (const c10::Error&) {
    torch::translate_exception_to_python(thrown);
  }
}

}  // namespace
}  // namespace fastssm::on_tensors

PYBIND11_MODULE(_C, m) {
  using namespace fastssm;
  using namespace fastssm::on_tensors;
  py::register_local_exception_translator(&translate);
  py::class_<Structure, std::shared_ptr<Structure>>(m, "Structure")
      .def(py::init<const std::string&, std::vector<int64_t>, std::vector<double>, std::vector<int64_t>>());
  m.def("objective",
        [](const std::shared_ptr<Structure>& structure, const at::Tensor& x, const std::optional<at::Tensor>& columns,
           const std::optional<at::Tensor>& v, const std::optional<at::Tensor>& seed,
           const std::vector<at::Tensor>& tensors, const std::optional<at::Tensor>& weight, int64_t projections,
           bool variance_reduced, bool mean, const std::string& precision) {
          const py::gil_scoped_release release;
          return differentiable_objective(structure, {{x, columns, v, seed, projections}, is_bfloat16(precision)},
                                          tensors, weight, {variance_reduced, mean});
        });
  m.def("denoising",
        [](const std::shared_ptr<Structure>& structure, const at::Tensor& x, const std::optional<at::Tensor>& columns,
           const at::Tensor& target, const std::vector<at::Tensor>& tensors, const std::optional<at::Tensor>& weight,
           bool mean, const std::string& precision) {
          const py::gil_scoped_release release;
          const on_tensors::Inputs inputs{{x, columns, std::nullopt, std::nullopt, 0}, is_bfloat16(precision), target};
          return std::get<0>(differentiable_objective(structure, inputs, tensors, weight, {true, mean}));
        });
  m.def("terms",
        [](const std::shared_ptr<Structure>& structure, const at::Tensor& x, const std::optional<at::Tensor>& columns,
           const std::optional<at::Tensor>& v, const std::optional<at::Tensor>& seed,
           const std::vector<at::Tensor>& tensors, int64_t projections, const std::string& precision) {
          const py::gil_scoped_release release;
          return differentiable_terms(structure, {{x, columns, v, seed, projections}, is_bfloat16(precision)}, tensors);
        });
  py::class_<GuardedCall>(m, "GuardedCall")
      .def(py::init(&guarded_call))
      .def("objective",
           [](const GuardedCall& call, const py::handle& x, const py::handle& v, int64_t projections,
              bool variance_reduced, bool mean) { return call.objective(x, v, projections, {variance_reduced, mean}); });
  m.def("refuse_second_backward", &refuse_second_backward);
  m.def("capability", &capability);
  m.def("build_info", &build_info);
  m.def("activation", &activation);
  m.def("rademacher", &rademacher);
}
