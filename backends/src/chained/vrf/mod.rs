//! A routing domain of the pod that its link becomes part of.
