"""Runs a SavedModel through TensorFlow's C API, in a process without TensorFlow's Python, Keras and lrp_tf.

    python serving_child.py JOB.json

The job names the folder of the shared libraries, the SavedModel, and runs: {"feeds": {tensor: array}, "fetches":
[tensor]}. Results, or the message of the error, go to a JSON file; numbers are {"dtype", "shape", "data"} with data in
base64, strings {"strings": [base64]}.
"""

import base64
import ctypes
import json
import resource
import sys

import numpy as np

CODES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 9: "int64", 10: "bool"}
STRING, STRING_SIZE = 7, 24


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class Library:
    """The functions of both shared libraries."""

    def __init__(self, folder):
        names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        self.parts = [ctypes.CDLL(f"{folder}/{name}", mode=ctypes.RTLD_GLOBAL) for name in names]

    def __call__(self, name, *arguments, result=ctypes.c_void_p):
        for part in self.parts:
            if hasattr(part, name):
                function = getattr(part, name)
                function.restype = result
                wrapped = [ctypes.c_void_p(a) if isinstance(a, int) and a > 2**31 else a for a in arguments]
                return function(*wrapped)
        raise AttributeError(name)


class Session:
    def __init__(self, library, path):
        self.call = library
        self.status, self.graph = self.call("TF_NewStatus"), self.call("TF_NewGraph")
        options, tags = self.call("TF_NewSessionOptions"), (ctypes.c_char_p * 1)(b"serve")
        self.session = self.call(
            "TF_LoadSessionFromSavedModel", options, None, path.encode(), tags, 1, self.graph, None, self.status
        )
        self.check()

    def check(self):
        if self.call("TF_GetCode", self.status, result=ctypes.c_int):
            raise RuntimeError(self.call("TF_Message", self.status, result=ctypes.c_char_p).decode())

    def place(self, tensor):
        name, _, index = tensor.partition(":")
        operation = self.call("TF_GraphOperationByName", self.graph, name.encode())
        assert operation, tensor
        return Output(operation, int(index or 0))

    def tensor(self, value):
        if "strings" in value:
            strings = [base64.b64decode(text) for text in value["strings"]]
            dims = (ctypes.c_int64 * 1)(len(strings))
            size = STRING_SIZE * len(strings)
            tensor = self.call("TF_AllocateTensor", STRING, dims, 1, ctypes.c_size_t(size))
            data = self.call("TF_TensorData", tensor)
            for i, text in enumerate(strings):
                self.call("TF_StringInit", data + i * STRING_SIZE, result=None)
                self.call("TF_StringCopy", data + i * STRING_SIZE, text, ctypes.c_size_t(len(text)), result=None)
            return tensor
        array = np.frombuffer(base64.b64decode(value["data"]), value["dtype"])
        code = next(code for code, name in CODES.items() if name == value["dtype"])
        dims = (ctypes.c_int64 * len(value["shape"]))(*value["shape"])
        tensor = self.call("TF_AllocateTensor", code, dims, len(value["shape"]), ctypes.c_size_t(array.nbytes))
        if array.nbytes:
            ctypes.memmove(self.call("TF_TensorData", tensor), array.ctypes.data, array.nbytes)
        return tensor

    def value(self, tensor):
        code = self.call("TF_TensorType", tensor, result=ctypes.c_int)
        rank = self.call("TF_NumDims", tensor, result=ctypes.c_int)
        shape = [self.call("TF_Dim", tensor, i, result=ctypes.c_int64) for i in range(rank)]
        data, size = self.call("TF_TensorData", tensor), self.call("TF_TensorByteSize", tensor, result=ctypes.c_size_t)
        if code == STRING:
            found = []
            for i in range(int(np.prod(shape))):
                length = self.call("TF_StringGetSize", data + i * STRING_SIZE, result=ctypes.c_size_t)
                start = self.call("TF_StringGetDataPointer", data + i * STRING_SIZE)
                found.append(base64.b64encode(ctypes.string_at(start, length)).decode())
            return {"strings": found}
        content = base64.b64encode(ctypes.string_at(data, size) if size else b"").decode()
        return {"dtype": CODES[code], "shape": shape, "data": content}

    def run(self, feeds, fetches):
        places = (Output * len(feeds))(*map(self.place, feeds))
        values = (ctypes.c_void_p * len(feeds))(*map(self.tensor, feeds.values()))
        wanted = (Output * len(fetches))(*map(self.place, fetches))
        found = (ctypes.c_void_p * len(fetches))()
        counts = [ctypes.c_int(len(feeds)), ctypes.c_int(len(fetches))]
        self.call(
            "TF_SessionRun", self.session, None, places, values, counts[0], wanted, found, counts[1],
            None, 0, None, self.status, result=None,
        )  # fmt: skip
        for tensor in values:
            self.call("TF_DeleteTensor", tensor, result=None)
        self.check()
        results = {name: self.value(tensor) for name, tensor in zip(fetches, found, strict=True)}
        for tensor in found:
            self.call("TF_DeleteTensor", tensor, result=None)
        return results


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    session = Session(Library(job["libraries"]), job["path"])
    results = []
    for run in job["runs"]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            results.append(session.run(run["feeds"], run["fetches"]))
        except RuntimeError as error:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            results.append({"error": str(error), "kilobytes": grown})
    assert not {"tensorflow", "keras", "lrp_tf"} & set(sys.modules)
    with open(job["out"], "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
