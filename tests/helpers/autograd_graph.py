"""What a gradient flows through."""


def operations(node):
    """Names of the operations from ``node``, a tensor's ``grad_fn``, down to the leaves."""
    return {node.name()}.union(*(operations(parent) for parent, _ in node.next_functions if parent))
