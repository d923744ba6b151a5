"""Who does the jobs of a sweep: this process, or the workers of a Ray cluster; ``units`` says what the words mean."""
