//! Routing by source address: a table for each address of the pod's link.
