"""An environment on disk: create, wrap, unwrap, sync, activate."""
