"""Where recordings go: one module a destination. They know no call and no dialect."""
