import bayesprior as bp

collect = bp.lightning.CollectSWAG(rank=10, start=1000, every=20, network="model")
# lightning.Trainer(callbacks=[collect]).fit(module, loader)
# collect.posterior().save("source.safetensors")
print(type(collect).__name__)
