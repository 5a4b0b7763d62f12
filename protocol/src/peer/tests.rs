//! Every body survives; every cut of it and every byte after it is an error.
