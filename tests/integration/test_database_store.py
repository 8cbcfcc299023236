import asyncio, pytest
async def test_it_works(database):
    c = await database.connect()
    assert await c.fetchval("select count(*) from bot_configs") == 0
def test_sync(database):
    assert database.settings["database_url"]
    async def go():
        c = await database.connect()
        await c.close()
    asyncio.run(go())
async def test_stopped(database, postgres):
    c = await database.connect()
    postgres.stop()
    with pytest.raises(Exception): await c.fetchval("select 1")
    postgres.start()
