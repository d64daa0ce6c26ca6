"""Do the methods keep accuracy? Every method at every sparsity, on equal budgets."""
