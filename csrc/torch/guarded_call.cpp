#include "guarded_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TracerMode.h>
#include <ATen/ops/randint.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdlib>
#include <limits>

namespace py = pybind11;

namespace fastssm::on_tensors {
namespace {

// Whether a call must go the long way, because something looks at it or changes what it means.
bool watched() {
  using c10::DispatchKey;
  const char* named = std::getenv("FASTSSM_BACKEND");
  return (named && *named) || c10::impl::dispatch_mode_enabled() || at::impl::PythonTorchFunctionTLS::stack_len() ||
         at::tracer::impl::is_dispatch_enabled() ||
         c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerBackMode) ||
         !c10::impl::tls_is_dispatch_key_excluded(DispatchKey::AutocastCPU);
}

bool is_empty(PyObject* container) { return container && PyObject_Size(container) == 0; }

// A borrowed entry of a dict, or null.
PyObject* entry(const py::object& dict, const py::handle& name) {
  PyObject* found = PyDict_GetItemWithError(dict.ptr(), name.ptr());
  if (!found && PyErr_Occurred()) throw py::error_already_set();
  return found;
}

struct Names {
  PyObject *forward = PyUnicode_InternFromString("forward"), *modules = PyUnicode_InternFromString("_modules"),
           *parameters = PyUnicode_InternFromString("_parameters");
};

const Names& names() {
  static const Names interned;
  return interned;
}

bool has_attributes(const Guard& guard, const py::object& module, const py::object& own) {
  for (const auto& [name, value] : guard.attributes) {
    py::object other = py::reinterpret_borrow<py::object>(entry(own, name));
    if (!other) other = py::getattr(module, name, py::handle());
    if (!other || !other.equal(value)) return false;
  }
  return true;
}

// Whether the values of a dict are as many as `expected`, and each is the same as there by `same`.
template <class Expected, class Same>
bool has_values(PyObject* dict, const Expected& expected, const Same& same) {
  if (!dict || PyDict_Size(dict) != static_cast<Py_ssize_t>(expected.size())) return false;
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t at = 0;
  for (const auto& each : expected)
    if (!PyDict_Next(dict, &at, &key, &value) || !same(value, each)) return false;
  return true;
}

bool holds(const Guard& guard, const Hooks& hooks, const py::object& module, const py::object& own) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(module.ptr())) != guard.kind.ptr()) return false;
  for (const py::handle name : hooks.names)
    if (!is_empty(entry(own, name))) return false;
  return !entry(own, names().forward) && has_attributes(guard, module, own) &&
         has_values(entry(own, names().modules), guard.children,
                    [](PyObject* child, uintptr_t id) { return reinterpret_cast<uintptr_t>(child) == id; }) &&
         has_values(entry(own, names().parameters), guard.parameters, [](PyObject* value, const py::object& kind) {
           return reinterpret_cast<PyObject*>(Py_TYPE(value)) == kind.ptr();
         });
}

bool holds(const Hooks& hooks) {
  for (const py::handle container : hooks.everywhere)
    if (!is_empty(container.ptr())) return false;
  for (const auto& [kind, forward] : hooks.forwards)
    if (!py::object(kind.attr(names().forward)).is(forward)) return false;
  return true;
}

// The tensor that is a Python object, or null where it is none or has a class of its own.
const at::Tensor* plain(const py::handle& given) {
  const bool fits = reinterpret_cast<PyObject*>(Py_TYPE(given.ptr())) == THPVariableClass;
  return fits ? &THPVariable_Unpack(given.ptr()) : nullptr;
}

bool is_dense(const at::Tensor& t) { return t.layout() == at::kStrided && t.device().is_cpu() && !t.is_inference(); }

bool are_data(const at::Tensor& x, int64_t dim) {
  return is_dense(x) && x.dim() == 2 && x.size(0) > 0 && x.size(1) == dim &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

// Whether v is [M, B, D] or [B, D] for data x.
bool are_directions(const at::Tensor& v, const at::Tensor& x) {
  return is_dense(v) && (v.dim() == 2 || (v.dim() == 3 && v.size(0) > 0)) && v.sizes().slice(v.dim() - 2) == x.sizes() &&
         at::isFloatingType(v.scalar_type()) && !v.requires_grad();
}

}  // namespace

// Reads the network's tensors; false where a module is not what it was.
bool GuardedCall::read(std::vector<at::Tensor>& tensors) const {
  std::vector<py::object> own;
  for (const Guard& each : modules_) {
    const py::object module = each.reference();
    if (module.is_none()) return false;
    own.push_back(py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module.ptr(), nullptr)));
    if (!own.back()) throw py::error_already_set();
    if (!holds(each, hooks_, module, own.back())) return false;
  }
  for (const auto& [module, name] : places_) {
    const py::object parameters = py::reinterpret_borrow<py::object>(entry(own[module], names().parameters));
    PyObject* found = entry(parameters, name);
    if (!found || !THPVariable_Check(found) || entry(own[module], name)) return false;
    tensors.push_back(THPVariable_Unpack(found));
  }
  return holds(hooks_);
}

std::optional<std::tuple<at::Tensor, at::Tensor, at::Tensor>> GuardedCall::objective(const py::handle& data,
                                                                                     const py::handle& directions,
                                                                                     int64_t projections,
                                                                                     Form form) const {
  const at::Tensor *x = plain(data), *v = plain(directions);
  if (!x || (!v && !directions.is_none()) || watched() || !are_data(*x, dim_)) return std::nullopt;
  std::vector<at::Tensor> tensors;
  if ((v && !are_directions(*v, *x)) || !read(tensors)) return std::nullopt;
  for (const at::Tensor& t : tensors)
    if (t.scalar_type() != x->scalar_type() || !t.device().is_cpu()) return std::nullopt;
  const py::gil_scoped_release release;
  Inputs inputs{{*x, std::nullopt, std::nullopt, std::nullopt, projections ? projections : dim_}, false};
  if (v) {
    inputs.v = *v;
    inputs.projections = v->dim() == 3 ? v->size(0) : 1;
  } else if (projections) {
    inputs.seed = at::randint(std::numeric_limits<int64_t>::max(), {}, at::TensorOptions(at::kLong));
  }
  return differentiable_objective(structure_, inputs, tensors, std::nullopt, form);
}

}  // namespace fastssm::on_tensors
