//! Kernel parameters of the pod's namespace and attributes of its link, put back when the attachment ends.
