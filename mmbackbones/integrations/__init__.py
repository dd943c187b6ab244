"""The models in the registries of other libraries. Each module registers when it is imported."""
