#include "model/checkpoint/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace plimsoll {
namespace {

using nlohmann::json;

const std::string kSource = PLIMSOLL_SOURCE_DIR;

TEST(Config, SaysWhichKeyIsWrong) {
  std::ifstream file(kSource + "/demo/model/config.json");
  const std::string good((std::istreambuf_iterator<char>(file)), {});
  ASSERT_TRUE(parse_config(good).ok());
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    const auto config = parse_config(text);
    return config.ok() ? std::string() : config.error().message;
  };
  EXPECT_EQ(error_with("\"hidden_size\": 256", "\"hidden_size\": -3"),
            "config.json: key hidden_size is -3, expected an integer from 1 to 131072");
  EXPECT_EQ(error_with("\"hc_mult\"", "\"hc_molt\""), "config.json: key hc_mult is missing");
  EXPECT_EQ(error_with("\"deepseek_v4\"", "\"llama\""),
            "config.json: key model_type is \"llama\", expected \"deepseek_v4\"");
  EXPECT_EQ(error_with("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2"),
            "config.json: key num_key_value_heads is 2, expected 1");
  EXPECT_NE(error_with("\"weight_block_size\": [", "\"weight_block_size\": [64,"), "");
  EXPECT_EQ(error_with("\"hc_mult\": 4", "\"hc_mult\": 4, \"hc_mult\": 4"),
            "config.json has the key \"hc_mult\" twice");
  EXPECT_NE(error_with("\"compress_ratios\": [", "\"compress_ratios\": [], \"x\": ["), "");
  EXPECT_NE(error_with("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}"), "");
}

json demo_config() {
  return json::parse(std::ifstream(kSource + "/demo/model/config.json"));
}

std::string error_of(const json& config) {
  const auto parsed = parse_config(config.dump());
  return parsed.ok() ? std::string() : parsed.error().message;
}

// Each key by itself in transformers' spelling, the others as they are.
TEST(Config, TakesEachKeyInTransformersSpelling) {
  const json official = demo_config();
  const ModelConfig expected = *parse_config(official.dump());
  const json types = {
      "sliding_attention",           "compressed_sparse_attention",  "heavily_compressed_attention",
      "compressed_sparse_attention", "heavily_compressed_attention", "compressed_sparse_attention"};
  const json rates = {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 128}};

  json mixed = official;
  mixed.erase("compress_ratios");
  mixed["layer_types"] = types;
  EXPECT_EQ(parse_config(mixed.dump())->compress_ratios, expected.compress_ratios);
  mixed["compress_rates"] = rates;
  EXPECT_EQ(parse_config(mixed.dump())->compress_ratios, expected.compress_ratios);
  mixed["compress_rates"]["heavily_compressed_attention"] = 64;
  EXPECT_EQ(parse_config(mixed.dump())->compress_ratios[2], 64);

  mixed = official;
  mixed.erase("num_hash_layers");
  mixed["mlp_layer_types"] = {"hash_moe", "moe", "moe", "moe", "moe", "moe"};
  EXPECT_EQ(parse_config(mixed.dump())->num_hash_layers, 1);

  mixed = official;
  mixed.erase("qk_rope_head_dim");
  mixed["partial_rotary_factor"] = 0.25;
  EXPECT_EQ(parse_config(mixed.dump())->qk_rope_head_dim, 16);

  mixed = official;
  mixed["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_FALSE(parse_config(mixed.dump())->rope_scaling.has_value());

  mixed = official;
  for (const char* key : {"rope_theta", "compress_rope_theta", "rope_scaling"}) mixed.erase(key);
  mixed["rope_parameters"] = {{"main", {{"rope_type", "default"}, {"rope_theta", 10000}}},
                              {"compress",
                               {{"rope_type", "yarn"},
                                {"rope_theta", 160000},
                                {"factor", 16},
                                {"original_max_position_embeddings", 65536},
                                {"beta_fast", 32},
                                {"beta_slow", 1},
                                {"attention_factor", 1.0}}}};
  const auto parsed = parse_config(mixed.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->rope_theta, 10000);
  EXPECT_EQ(parsed->compress_rope_theta, 160000);
  ASSERT_TRUE(parsed->rope_scaling.has_value());
  EXPECT_EQ(parsed->rope_scaling->factor, 16);
  EXPECT_EQ(parsed->rope_scaling->original_max_position_embeddings, 65536);
}

TEST(Config, TakesBothSpellingsWhereTheyAgree) {
  json both = demo_config();
  both["mlp_layer_types"] = {"hash_moe", "moe", "moe", "moe", "moe", "moe"};
  both["compress_ratios"].push_back(0);  // a draft layer
  both["layer_types"] = {
      "sliding_attention",           "compressed_sparse_attention",  "heavily_compressed_attention",
      "compressed_sparse_attention", "heavily_compressed_attention", "compressed_sparse_attention"};
  EXPECT_EQ(error_of(both), "");
  both["mlp_layer_types"][1] = "hash_moe";
  EXPECT_EQ(
      error_of(both),
      "config.json: key num_hash_layers is 1, but mlp_layer_types says 2; they mean the same, "
      "drop the wrong one");
  both["mlp_layer_types"] = {"moe", "hash_moe"};
  EXPECT_NE(error_of(both).find("hash_moe for the first layers"), std::string::npos);
  both.erase("mlp_layer_types");
  both["layer_types"][0] = "full_attention";
  EXPECT_NE(error_of(both).find("key layer_types is \"full_attention\""), std::string::npos);
  both["layer_types"][0] = "heavily_compressed_attention";
  EXPECT_NE(error_of(both).find("but layer_types says"), std::string::npos);
}

TEST(Config, HasSeveralEndTokens) {
  const std::string folder = testing::TempDir() + "/config_test";
  std::filesystem::create_directories(folder);
  json config = demo_config();
  config["eos_token_id"] = {1, 5};
  std::ofstream(folder + "/config.json") << config;
  EXPECT_EQ(load_config(folder)->eos_token_ids, (std::vector<int32_t>{1, 5}));
  std::ofstream(folder + "/generation_config.json") << R"({"eos_token_id": [5, 9]})";
  EXPECT_EQ(load_config(folder)->eos_token_ids, (std::vector<int32_t>{1, 5, 9}));
  std::ofstream(folder + "/generation_config.json") << R"({"temperature": 1.0})";
  EXPECT_EQ(load_config(folder)->eos_token_ids, (std::vector<int32_t>{1, 5}));
  std::ofstream(folder + "/generation_config.json") << R"({"eos_token_id": 99999})";
  EXPECT_NE(load_config(folder).error().message.find("expected ids below vocab_size"),
            std::string::npos);
  std::filesystem::remove_all(folder);

  for (const json& bad : {json(-1), json::array(), json("x"), json::array({1, "x"}), json(4096)}) {
    config["eos_token_id"] = bad;
    EXPECT_NE(error_of(config), "") << bad;
  }
}

}  // namespace
}  // namespace plimsoll
