def render(run, **kw): return "<html></html>"
