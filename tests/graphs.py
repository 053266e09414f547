"""Looking into TensorFlow's graphs."""


def operations_behind(*operations):
    """The operations that have to run before ``operations``, and they themselves, as a set."""
    found, pending = set(), list(operations)
    while pending:
        op = pending.pop()
        if op not in found:
            found.add(op)
            pending += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return found
